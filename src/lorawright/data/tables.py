"""Tables → raw rows: csv, parquet, Arrow and hub sets, numbered from 1.

Cells of a list column may hold JSON text; they are parsed. Arrow gives every struct the keys of all
its siblings, as null: those are taken out again below the keys of a message.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from lorawright.data.findings import clip, quote
from lorawright.data.parse_json import RawRow, not_utf8
from lorawright.data.sources import DataFile
from lorawright.types import Kind, Problem

JSON_COLUMNS = ("messages", "conversations", "history")
TEXT_OR_JSON_COLUMNS = ("prompt", "completion")
LIST_COLUMNS = (*JSON_COLUMNS, *TEXT_OR_JSON_COLUMNS)
BATCH_ROWS = 1000


class _TextLines:
    """Lines of a file as text, remembering where it is when bytes are no UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.line = 0
        self.offset = 0

    def __iter__(self) -> Iterator[str]:
        for raw in self.file:
            self.line += 1
            yield raw.decode("utf-8-sig" if self.line == 1 else "utf-8")
            self.offset += len(raw)


def read_csv(source: DataFile) -> Iterator[RawRow | Problem]:
    """Rows under a header; cells that hold lists as JSON are parsed. Blank lines are no rows."""
    csv.field_size_limit(sys.maxsize)
    with source.path.open("rb") as file:
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
                yield not_utf8(source.name, max(number + 1, 1), lines.offset + error.start)
                return
            if header is None:
                header = cells or None
            elif cells:
                number += 1
                yield _csv_row(header, cells, source.name, number)


def _broken_csv(file: str, number: int | None, reason: str, line: int) -> Problem:
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
    return _with_json_cells(row, file, number)


def _with_json_cells(row: dict[str, Any], file: str, number: int) -> RawRow | Problem:
    """Parses text cells of the columns that hold lists."""
    for key in LIST_COLUMNS:
        cell = row.get(key)
        if not isinstance(cell, str):
            continue
        if key in TEXT_OR_JSON_COLUMNS and not cell.lstrip().startswith("[{"):
            continue
        try:
            row[key] = orjson.loads(cell)
        except orjson.JSONDecodeError as error:
            if key in TEXT_OR_JSON_COLUMNS:
                continue
            message, hint = _broken_cell(cell, error)
            return Problem(file, number, key, message, hint, Kind.SHAPE)
    return RawRow(file, number, row)


def _broken_cell(cell: str, error: orjson.JSONDecodeError) -> tuple[str, str]:
    near = quote(cell[max(0, error.pos - 20) : error.pos + 20])
    hint = "write the list as JSON"
    if cell.startswith(("[{'", "['")):
        hint = "this is a Python list in single quotes: write it with json.dumps"
    message = f"is not JSON: {error.msg} at character {error.pos + 1}, near {near}"
    return message, hint


def read_parquet(source: DataFile) -> Iterator[RawRow | Problem]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as file:
            yield from rows_of(file.iter_batches(BATCH_ROWS), source.name)
    except (pa.ArrowException, ValueError) as error:
        yield _broken_table(source.name, "parquet", error)


def read_arrow(source: DataFile) -> Iterator[RawRow | Problem]:
    """Both of Arrow's layouts: the stream (what `datasets` saves) and the file."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(source.path)) as memory:
            if _starts_with(source.path, b"ARROW1"):
                reader = pa.ipc.open_file(memory)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            else:
                batches = iter(pa.ipc.open_stream(memory))
            yield from rows_of(batches, source.name)
    except (pa.ArrowException, ValueError) as error:
        yield _broken_table(source.name, "Arrow", error)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _broken_table(file: str, kind: str, error: Exception) -> Problem:
    reason = clip(str(error).partition("\n")[0])
    message = f"cannot be read as {kind}: {reason}"
    return Problem(file, None, "", message, "write the file anew", Kind.FILE)


def rows_of(batches: Iterator[Any], file: str) -> Iterator[RawRow | Problem]:
    """Rows of record batches, or of small tables."""
    number = 0
    converters: dict[str, Callable[[Any], Any]] = {}
    for batch in batches:
        if not converters:
            converters = {field.name: _column_converter(field) for field in batch.schema}
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for row in batch.slice(start, BATCH_ROWS).to_pylist():
                number += 1
                cells = {key: converters[key](value) for key, value in row.items()}
                yield _with_json_cells(cells, file, number)


def _column_converter(field: Any) -> Callable[[Any], Any]:
    import pyarrow as pa

    if field.name == "tools" or field.name in LIST_COLUMNS:
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            return lambda items: None if items is None else [_object_in(item) for item in items]
        return _converter(field.type, keep_nulls=field.name != "tools")
    return _same


def _same(value: Any) -> Any:
    return value


def _converter(kind: Any, *, keep_nulls: bool = False) -> Callable[[Any], Any]:
    """How values of an Arrow type become JSON values: nulls leave structs (meant ones, too: Arrow
    does not tell), JSON text in lists and in Arrow's own JSON type is parsed."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json":
        return _parsed
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _converter(kind.value_type, keep_nulls=keep_nulls)
        return lambda items: None if items is None else [inner(item) for item in items]
    if not pa.types.is_struct(kind):
        return _same
    inners = {field.name: _converter(field.type) for field in kind}

    def convert(struct: dict[str, Any] | None) -> dict[str, Any] | None:
        if struct is None:
            return None
        items = struct.items()
        return {key: inners[key](item) for key, item in items if keep_nulls or item is not None}

    return convert


def _object_in(text: Any) -> Any:
    """The object that a text holds as JSON; a text that holds none stays what it is."""
    return _parsed(text) if isinstance(text, str) and text.startswith("{") else text


def _parsed(value: Any) -> Any:
    if value is None:
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
