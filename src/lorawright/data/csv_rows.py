"""csv → raw rows, numbered from 1 below the header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from lorawright.data.file_names import open_file
from lorawright.data.json_rows import MOST_ROW_BYTES, RawRow, not_utf8, too_long
from lorawright.data.lines import lines_of
from lorawright.data.problems import clip
from lorawright.data.sources import DataFile
from lorawright.data.tables import JSON_COLUMNS, same_names, with_json_cells
from lorawright.types import Kind, Problem

TOO_LONG = "field larger than field limit"  # the words of the csv module


class _TextLines:
    """Lines of a file as text, remembering where it is when bytes are no UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self.lines = lines_of(file)
        self.line = 0
        self.offset = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.line, self.offset, raw = next(self.lines)
        if len(raw) > MOST_ROW_BYTES:
            raise csv.Error(TOO_LONG)
        return raw.decode("utf-8-sig" if self.line == 1 else "utf-8")


def read_csv(source: DataFile) -> Iterator[RawRow | Problem]:
    """Rows under a header; cells that hold lists as JSON are parsed. Blank lines are no rows."""
    csv.field_size_limit(MOST_ROW_BYTES)
    with open_file(source.path) as file:
        lines = _TextLines(file)
        records = csv.reader(lines, strict=True)
        header: list[str] | None = None
        number = 0
        while True:
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                number += header is not None
                yield _broken_csv(source.name, number or None, str(error), lines.line)
                if header is None:
                    return
                continue
            except UnicodeDecodeError as error:
                row = None if header is None else number + 1
                yield not_utf8(source.name, row, lines.offset + error.start)
                return
            if header is None:
                header = cells or None
                if header and (problem := same_names(header, source.name)) is not None:
                    yield problem
                    return
            elif cells:
                number += 1
                yield _csv_row(header, cells, source.name, number)


def _broken_csv(file: str, number: int | None, reason: str, line: int) -> Problem:
    if reason.startswith(TOO_LONG):
        return too_long(file, number)
    message = f"is not CSV: {clip(reason)} (line {line} of the file)"
    hint = 'text with quotes, commas or line ends stands in "...", a quote in it is written ""'
    return Problem(file, number, "", message, hint, Kind.SYNTAX)


def _csv_row(header: list[str], cells: list[str], file: str, number: int) -> RawRow | Problem:
    if len(cells) != len(header):
        message = f"has {len(cells)} cells, the header has {len(header)}"
        return Problem(file, number, "", message, "put text with commas in quotes", Kind.SHAPE)
    row: dict[str, Any] = {
        key: None if cell == "" and key in JSON_COLUMNS else cell
        for key, cell in zip(header, cells, strict=True)
    }
    return with_json_cells(row, file, number)
