"""What is wrong at one place of a row, in words: "what, got" and what to do.

Example:
    Finding("messages[2].content", "is a number (3), expected text", "write it in quotes")
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lorawright.errors import DataError
from lorawright.types import Kind, Problem

QUOTED_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that does not know its file and line yet; `path` leads into the row."""

    path: str
    message: str
    hint: str
    kind: Kind = Kind.SHAPE


@dataclass(slots=True)
class RowErrors:
    """What gathers while one row is parsed: findings, tools that stand inside messages, and keys
    of messages that no format knows; the last two with their paths."""

    findings: list[Finding] = field(default_factory=list)
    inner_tools: list[tuple[str, Any]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)

    def find(self, path: str, message: str, hint: str) -> None:
        self.findings.append(Finding(path, message, hint))


def as_error(problem: Problem, num_more: int = 0) -> DataError:
    """A problem as the error that ends a verb; `num_more`: of how many others it is the first."""
    at = f"{problem.path} " if problem.path else ""
    more = f" (and {num_more} more)" if num_more else ""
    hint = f"{problem.hint}; `lorawright check CONFIG` lists all problems" if more else problem.hint
    return DataError(f"{at}{problem.message}{more}", where=problem.where, hint=hint)


def clip(text: str) -> str:
    """One printable line of at most 60 characters."""
    short = text[: QUOTED_CHARACTERS + 1]
    if len(short) > QUOTED_CHARACTERS:
        short = short[: QUOTED_CHARACTERS - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def quote(text: str) -> str:
    """A value as it is shown inside a message."""
    return f"`{clip(text)}`"


def names(words: Iterable[str]) -> str:
    """Up to eight quoted words with commas between them."""
    shown = [quote(word) for word in words]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


def got(value: object) -> str:
    """`is null`, `is a number (3)`, `is text`: what stands where something else belongs."""
    if value is None:
        return "is null"
    if isinstance(value, bool):
        return "is true" if value else "is false"
    if isinstance(value, int | float):
        return f"is a number ({clip(str(value))})"
    if isinstance(value, str):
        return f"is text ({quote(value)})" if value else "is empty text"
    if isinstance(value, list):
        return "is a list" if value else "is an empty list"
    if isinstance(value, dict):
        return "is an object"
    return f"is a value of type {type(value).__name__}"


@lru_cache(maxsize=4096)
def nearest(word: str, choices: tuple[str, ...]) -> str | None:
    """The choice that `word` is a slip of, if there is one: same first letter, or only case off."""
    if word.lower() in choices:
        return word.lower()
    close = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.8)
    return close[0] if close and close[0][0] == word[0].lower() else None


def did_you_mean(word: str, choices: tuple[str, ...], otherwise: str) -> str:
    near = nearest(clip(word), choices)
    return f"did you mean `{near}`?" if near else otherwise
