"""Bytes and seconds → what people read; unit symbols are the same in every language."""

from __future__ import annotations

from rich import filesize


def size(num_bytes: float) -> str:
    """988097824 → 988.1 MB; units are powers of 1000."""
    return filesize.decimal(int(num_bytes))


SECONDS, MINUTES, HOURS = "{seconds} s", "{minutes} min", "{hours} h {minutes} min"


def duration(seconds: float, forms: tuple[str, str, str] = (SECONDS, MINUTES, HOURS)) -> str:
    """42.3 → 42 s; 3725 → 1 h 02 min.

    Args:
        seconds: How long.
        forms: What seconds, minutes and hours are called.
    """
    in_seconds, in_minutes, in_hours = forms
    if seconds < 60:
        return in_seconds.format(seconds=f"{seconds:.0f}")
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return in_minutes.format(minutes=minutes)
    return in_hours.format(hours=hours, minutes=f"{minutes:02d}")
