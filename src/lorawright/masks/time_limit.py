"""A bound on the time that a template may take for one chat.

Templates come with models, from anyone. Jinja's sandbox bounds what they reach, not how long they
run: two loops inside each other take hours. A timer of the process's own time (so that a busy or
stopped machine is no cause) interrupts Jinja's Python code. It needs the main thread of a POSIX
process, which is where chats are rendered, in workers too; elsewhere (Windows) there is no bound.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TypeVar

from lorawright.errors import TemplateError

SECONDS = 10.0
T = TypeVar("T")


class TookTooLong(Exception):
    """Raised inside the work by the timer."""


class TimeLimit:
    """Bounds the work done inside `with`, a piece at a time.

    The signal's handler is set once for many chats: it costs 10 us, the timer 1.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._can_interrupt = (
            sys.platform != "win32" and threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> Self:
        if self._can_interrupt:
            self._before = signal.signal(signal.SIGVTALRM, _interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._can_interrupt:
            signal.signal(signal.SIGVTALRM, self._before)

    def run(self, where: str, work: Callable[[], T]) -> T:
        """Ends the work after 10 seconds of processor time.

        Args:
            where: The address of what is rendered.
            work: Renders it.

        Raises:
            TemplateError: It took longer.
        """
        try:
            return self.bounded(work)
        except TookTooLong:
            raise TemplateError(
                f"the chat template took over {SECONDS:g} s for one chat",
                where=where,
                hint="look for loops in the model's chat_template.jinja; take the one of its "
                "original release",
            ) from None

    def bounded(self, work: Callable[[], T]) -> T:
        """The same for any other work.

        Raises:
            TookTooLong: It took longer.
        """
        if not self._can_interrupt:
            return work()
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TookTooLong
