"""Ctrl-C and SIGTERM → a checkpoint after the step; the second signal leaves at once.

    signal ─► C's handler ─► pipe ─► listener thread: says so within a moment
                    └─► Python's handler, once the main thread is back from its C call

A step is one C call of seconds or minutes, during which Python's handlers do not run. So the answer
comes from a thread, and so does the end, where a second signal finds the main thread away.

`quiet` keeps other libraries' messages off the terminal.
"""

from __future__ import annotations

import logging as python_logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

LISTENED = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_LEAVE = 5.0  # for the main thread to clean up after the second signal
SHOW_CURSOR = b"\x1b[?25h"


@dataclass
class Stop:
    """Whether a signal has asked to stop, and which.

    `patient`: a second signal changes nothing; in processes that a launcher watches, which may get
    one from it and one from the system. `tell` is called once, from another thread.
    """

    number: int | None = None
    patient: bool = False
    tell: Callable[[], None] = field(default=lambda: None)

    def __call__(self) -> bool:
        return self.number is not None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and not self.patient:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_on_signals(
    *, patient: bool = False, tell: Callable[[], None] = lambda: None
) -> Iterator[Stop]:
    """Listens while the block runs; outside the main thread nothing can be listened to.

    Args:
        patient: See `Stop`.
        tell: Called as soon as the first signal comes, also in the middle of a step.
    """
    stop = Stop(patient=patient, tell=tell)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = [signal.signal(number, stop._ask) for number in LISTENED]
    try:
        with _listener(stop):
            yield stop
    finally:
        for number, handler in zip(LISTENED, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _listener(stop: Stop) -> Iterator[None]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    left = threading.Event()
    thread = threading.Thread(target=_listen, args=(reading, stop, left), daemon=True)
    thread.start()
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        left.set()
        os.close(writing)  # ends the thread
        thread.join()
        os.close(reading)


def _listen(reading: int, stop: Stop, left: threading.Event) -> None:
    num_asked = 0
    while arrived := os.read(reading, 64):
        for number in arrived:
            if number not in LISTENED:
                continue
            num_asked += 1
            if num_asked == 1:
                stop.tell()
            elif not stop.patient:
                _leave_in_a_moment(left, number)


def _leave_in_a_moment(left: threading.Event, number: int) -> None:
    """Ends the process where the main thread does not come back by itself: as `kill -9` would."""

    def leave() -> None:
        if left.wait(SECONDS_TO_LEAVE):
            return
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SHOW_CURSOR)
        os._exit(128 + number)

    threading.Thread(target=leave, daemon=True).start()


def quiet() -> None:
    """Keeps other libraries' messages off the terminal; called by what loads torch, before it does.

    Each filter names what it hides and why.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # no telemetry
    # deepspeed, where installed, is imported by accelerate and says on stdout what it found
    python_logging.getLogger("DeepSpeed").addFilter(lambda r: r.levelno >= python_logging.ERROR)
    os.environ.setdefault("TQDM_DISABLE", "1")  # Transformers' bars; ours are rich's
    # trl 1.16 asks a model with transformers 5.23's old name for checkpointing; nothing to do here
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    # bitsandbytes on a CPU says that paging is for GPUs; `resolve` has said so already
    warnings.filterwarnings("ignore", message=".*[Pp]aged.*not supported.*")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # bitsandbytes says on a CPU that an optional kernel is not installed; it has its own
    python_logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(python_logging.ERROR)
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
