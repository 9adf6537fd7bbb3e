"""What every generator of cases for `tools/fuzz.py` makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Check = Callable[[dict[str, Any]], list[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """A command line, run in its folder, and what is known of its JSON answer.

    Attributes:
        arguments: Behind `lorawright`.
        checks: Each gives what is wrong with the answer, as "verdict: words".
        is_json: Whether the command answers in JSON.
    """

    arguments: list[str]
    checks: tuple[Check, ...] = ()
    is_json: bool = True
