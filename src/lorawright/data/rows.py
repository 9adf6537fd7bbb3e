"""Files → raw rows, or problems where there is no row; streaming, except for `.json`.

Example:
    for item in read_rows(DataFile(Path("train.jsonl"), "train.jsonl")):
        ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import orjson

from lorawright.data.csv_rows import read_csv
from lorawright.data.file_names import open_file
from lorawright.data.json_rows import (
    BLANK,
    BLANKS,
    BOM,
    MOST_ROW_BYTES,
    RawRow,
    parse_array,
    parse_value,
)
from lorawright.data.lines import lines_of
from lorawright.data.problems import clip, got, quote
from lorawright.data.sources import UNPACK, DataFile, HubSet, read_hub, unpack_hint
from lorawright.data.tables import BATCH_ROWS, LIST_COLUMNS, read_arrow, read_parquet, rows_of
from lorawright.types import Kind, Problem

TEXT_EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv")
BINARY_STARTS = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file",
}
HEAD_BYTES = 6


def read_rows(source: DataFile | HubSet) -> Iterator[RawRow | Problem]:
    """All rows of a source. A file without any is a problem.

    Raises:
        DataError: a hub set that cannot be loaded; files never raise.
    """
    if isinstance(source, HubSet):
        name, batches = read_hub(source, BATCH_ROWS)
        yield from rows_of(batches, name)
        return
    is_empty = True
    try:
        for item in _reader(source):
            is_empty = False
            yield item
        if is_empty:
            yield _empty(source)
    except OSError as error:
        reason = clip(error.strerror or str(error))
        denied = isinstance(error, PermissionError)
        hint = "allow it: `chmod u+r` on the file" if denied else "check the file"
        yield _file_problem(source.name, f"cannot be read: {reason}", hint)


def _reader(source: DataFile) -> Iterator[RawRow | Problem]:
    extension = source.path.suffix.lower()
    if extension in UNPACK:
        return iter([_file_problem(source.name, "is packed", unpack_hint(source.path))])
    if extension in TEXT_EXTENSIONS and (problem := _binary(source)) is not None:
        return iter([problem])
    if extension == ".parquet":
        return read_parquet(source)
    if extension == ".arrow":
        return read_arrow(source)
    if extension == ".csv":
        return read_csv(source)
    if extension == ".json":
        return _read_json(source)
    return _read_jsonl(source)


def _file_problem(file: str, message: str, hint: str, line: int | None = None) -> Problem:
    return Problem(file, line, "", message, hint, Kind.FILE)


def _empty(source: DataFile) -> Problem:
    hint = "remove the file, or write rows into it"
    if os.path.getsize(source.path) == 0:
        return _file_problem(source.name, "is empty", hint)
    if source.path.suffix.lower() in (".jsonl", ".ndjson"):
        return _file_problem(source.name, "has only blank lines", hint)
    return _file_problem(source.name, "has no rows", hint)


def _binary(source: DataFile) -> Problem | None:
    """What is plainly no UTF-8 text gets one problem, not one a line."""
    with open_file(source.path) as file:
        head = file.read(HEAD_BYTES)
    known = [what for start, what in BINARY_STARTS.items() if head.startswith(start)]
    if not known and b"\0" not in head[:4]:
        return None
    message = f"is not UTF-8 text but {known[0] if known else 'binary data'} (byte 0 of the file)"
    return _file_problem(source.name, message, "save it as UTF-8 text", 1)


def _read_jsonl(source: DataFile) -> Iterator[RawRow | Problem]:
    name = source.name
    with open_file(source.path) as file:
        for line, start, raw in lines_of(file):
            if line == 1 and raw.startswith(BOM):
                raw, start = raw[len(BOM) :], start + len(BOM)
            if len(raw) <= MOST_ROW_BYTES:
                raw = raw.rstrip(BLANK)
            if raw:
                yield parse_value(raw, name, line, start)


def _read_json(source: DataFile) -> Iterator[RawRow | Problem]:
    """An array of rows. A file that holds one object a line is read as what it is, jsonl."""
    with open_file(source.path) as file:
        data = file.read()
    blanks = BLANKS.match(data, len(BOM) if data.startswith(BOM) else 0)
    assert blanks is not None
    begin = blanks.end()
    if data.startswith(b"[", begin):
        yield from parse_array(data, source.name)
    elif _is_jsonl(data, begin):
        del data  # read again line by line: not both in memory
        yield from _read_jsonl(source)
    elif begin < len(data):
        yield _no_array(data[begin:], source.name, 1 + data.count(b"\n", 0, begin), begin)


def _is_jsonl(data: bytes, begin: int) -> bool:
    """Whether the first line is an object and another one starts below it."""
    end = data.find(b"\n", begin)
    if end < 0 or not data.startswith(b"{", begin):
        return False
    blanks = BLANKS.match(data, end)
    assert blanks is not None
    if not data.startswith(b"{", blanks.end()):
        return False
    try:
        orjson.loads(data[begin:end])
    except orjson.JSONDecodeError:
        return False
    return True


def _no_array(body: bytes, name: str, line: int, offset: int) -> Problem:
    item = parse_value(body.rstrip(BLANK), name, line, offset)
    if isinstance(item, Problem):
        return item
    message = f"{got(item.value)}, expected an array of rows"
    hint = "put `[` and `]` around the rows, or write one row a line into a .jsonl file"
    if isinstance(item.value, dict):
        arrays = [
            key
            for key, value in item.value.items()
            if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        if arrays and arrays[0] not in LIST_COLUMNS:
            hint = f"the rows seem to stand under {quote(arrays[0])}: write that array alone"
    return _file_problem(name, message, hint, line)
