"""Tables → raw rows: parquet, Arrow and hub sets, numbered from 1.

Cells of a list column may hold JSON text; they are parsed. Arrow gives every struct the keys of all
its siblings, as null: those are taken out again below the keys of a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import orjson

from lorawright.data.file_names import open_file
from lorawright.data.json_rows import MOST_ROW_BYTES, RawRow, exact_inside
from lorawright.data.problems import clip, names, quote
from lorawright.data.sources import DataFile
from lorawright.types import Kind, Problem

JSON_COLUMNS = ("messages", "conversations", "history")
TEXT_OR_JSON_COLUMNS = ("prompt", "completion")
LIST_COLUMNS = (*JSON_COLUMNS, *TEXT_OR_JSON_COLUMNS)
BATCH_ROWS = 1000
ARROW_FILE = b"ARROW1"


def with_json_cells(row: dict[str, Any], file: str, number: int) -> RawRow | Problem:
    """Parses text cells of the columns that hold lists."""
    for key in LIST_COLUMNS:
        cell = row.get(key)
        if not isinstance(cell, str):
            continue
        if key in TEXT_OR_JSON_COLUMNS and not cell.lstrip().startswith("[{"):
            continue
        try:
            row[key] = exact_inside(cell, orjson.loads(cell))
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
    """A row group at a time."""
    import pyarrow.parquet as pq

    def batches(file: BinaryIO) -> Iterator[Any]:
        with pq.ParquetFile(file) as table:
            yield from table.iter_batches(BATCH_ROWS)

    return _read_table(source, "parquet", batches)


def read_arrow(source: DataFile) -> Iterator[RawRow | Problem]:
    """Both of Arrow's layouts: the stream (what `datasets` saves) and the file.

    Read, not mapped into memory: a file that was cut short would end the process (SIGBUS).
    """
    import pyarrow as pa

    def batches(file: BinaryIO) -> Iterator[Any]:
        is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
        file.seek(0)
        if not is_file:
            return iter(pa.ipc.open_stream(file))
        reader = pa.ipc.open_file(file)
        return map(reader.get_batch, range(reader.num_record_batches))

    return _read_table(source, "Arrow", batches)


def _read_table(
    source: DataFile, kind: str, batches: Callable[[BinaryIO], Iterator[Any]]
) -> Iterator[RawRow | Problem]:
    """Rows up to the first that cannot be read, which is one problem with its address."""
    import pyarrow as pa

    row = 0
    with open_file(source.path) as file:
        try:
            for item in rows_of(_sound(batches(file)), source.name):
                yield item
                row = item.line or row
        except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
            yield _broken_table(source.name, kind, error, row)


def _sound(batches: Iterator[Any]) -> Iterator[Any]:
    """Batches whose offsets, lengths and text are right: `to_pylist` trusts them, and a wrong one
    ends the process (5 of 500 damaged files; with this and no memory map 0 of 200,000)."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _broken_table(file: str, kind: str, error: Exception, num_rows: int) -> Problem:
    reason = clip(str(error).partition("\n")[0])
    message, line = f"cannot be read as {kind}: {reason}", None
    if num_rows:
        message, line = f"cannot be read as {kind} from this row on: {reason}", num_rows + 1
    return Problem(file, line, "", message, "write the file anew", Kind.FILE)


def rows_of(batches: Iterator[Any], file: str) -> Iterator[RawRow | Problem]:
    """Rows of record batches, or of small tables."""
    number = 0
    converters: dict[str, Callable[[Any], Any]] = {}
    for batch in batches:
        if not converters:
            if (problem := same_names(batch.schema.names, file)) is not None:
                yield problem
                return
            converters = {field.name: _column_converter(field) for field in batch.schema}
        step = _num_rows_at_once(batch)
        for start in range(0, batch.num_rows, step):
            for row in batch.slice(start, step).to_pylist():
                number += 1
                cells = {key: converters[key](value) for key, value in row.items()}
                yield with_json_cells(cells, file, number)


def _num_rows_at_once(batch: Any) -> int:
    """So many rows that their Python objects stay small, also where rows are large."""
    row_bytes: int = batch.nbytes // max(batch.num_rows, 1) + 1
    return max(1, min(BATCH_ROWS, MOST_ROW_BYTES // row_bytes))


def same_names(columns: list[str], file: str) -> Problem | None:
    """Two columns of one name: the second would hide the first. Columns without a name may."""
    twice = [name for name, num in Counter(columns).items() if num > 1 and name]
    if not twice:
        return None
    message = f"has a column twice: {names(twice)}"
    return Problem(file, None, "", message, "rename or remove one of the two", Kind.FILE)


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
