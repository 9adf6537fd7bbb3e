"""Lines of a file with their number and place; a line that has no end is not kept whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from lorawright.data.json_rows import MOST_ROW_BYTES

STEP_BYTES = 2**16


def lines_of(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte in the file, line with its end) of every line.

    Of a line that is longer than a row may be, one byte more than that is kept.
    """
    most = MOST_ROW_BYTES + 1
    readline = file.readline
    number = start = 0
    while raw := readline(most):
        number += 1
        yield number, start, raw
        start += len(raw)
        if len(raw) == most and not raw.endswith(b"\n"):
            start += _skip_line(file)


def _skip_line(file: BinaryIO) -> int:
    num_bytes = 0
    while raw := file.readline(STEP_BYTES):
        num_bytes += len(raw)
        if raw.endswith(b"\n"):
            break
    return num_bytes
