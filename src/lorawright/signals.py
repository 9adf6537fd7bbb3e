"""Ctrl-C and SIGTERM: the first asks for a checkpoint after the step, the second leaves at once.

    signal ─► C's handler ─► pipe ─► listener thread: says so within a moment
                    └─► Python's handler, once the main thread is back from its C call

A step is one C call of seconds or minutes, during which Python's handlers do not run. So the answer
comes from a thread, and so does the end, where a second signal finds the main thread away.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
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
