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
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lorawright.errors import TemplateError

SECONDS = 10.0


class TookTooLong(Exception):
    """Raised inside a template by the timer."""


@contextmanager
def time_limit(where: str) -> Iterator[None]:
    """Ends what runs inside after 10 seconds of processor time.

    Args:
        where: The address of what is rendered.

    Raises:
        TemplateError: It took longer.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    except TookTooLong:
        raise TemplateError(
            f"the chat template took over {SECONDS:g} s for one chat",
            where=where,
            hint="look for loops in the model's chat_template.jinja; take the one of its original "
            "release",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TookTooLong
