"""Ctrl-C and SIGTERM: the first asks for a checkpoint after the step, the second leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal has asked to stop, and which.

    `patient`: a second signal changes nothing; in processes that a launcher watches, which may get
    one from it and one from the system.
    """

    number: int | None = None
    patient: bool = False

    def __call__(self) -> bool:
        return self.number is not None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and not self.patient:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[Stop]:
    """Listens while the block runs; outside the main thread nothing can be listened to."""
    stop = Stop(patient=patient)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    listened = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop._ask) for number in listened]
    try:
        yield stop
    finally:
        for number, handler in zip(listened, before, strict=True):
            signal.signal(number, handler)
