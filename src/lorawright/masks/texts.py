"""Rendered texts side by side, and in messages."""

from __future__ import annotations

from lorawright.masks.special_tokens import unmark


def num_common(one: str, other: str) -> int:
    """Characters that two texts begin with."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(i for i in range(shorter) if one[i] != other[i])


def parting(expected: str, got: str) -> str:
    """Where two texts part, with a little of both."""
    at = num_common(expected, got)
    return (
        f"at character {at}, after {clip(expected[max(0, at - 24) : at])}, expected "
        f"{clip(expected[at : at + 24])}, got {clip(got[at : at + 24])}"
    )


def clip(text: str) -> str:
    """Rendered text in a message: as written, quoted, its middle left out where it is long."""
    shown = unmark(text)
    return repr(shown if len(shown) <= 60 else f"{shown[:28]}…{shown[-28:]}")
