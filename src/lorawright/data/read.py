"""Files → raw rows, or problems where there is no row; streaming, except for `.json`.

Example:
    for item in read_rows(DataFile(Path("train.jsonl"), "train.jsonl")):
        ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import orjson

from lorawright.data.findings import clip, got, quote
from lorawright.data.parse_json import BLANK, BOM, RawRow, parse_array, parse_value
from lorawright.data.sources import DataFile, HubSet, read_hub
from lorawright.data.tables import (
    BATCH_ROWS,
    LIST_COLUMNS,
    read_arrow,
    read_csv,
    read_parquet,
    rows_of,
)
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
    except OSError as error:
        is_empty = False
        reason = clip(error.strerror or str(error))
        yield _file_problem(source.name, f"cannot be read: {reason}", "check the file")
    if is_empty:
        yield _empty(source)


def _reader(source: DataFile) -> Iterator[RawRow | Problem]:
    extension = source.path.suffix.lower()
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
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    known = [what for start, what in BINARY_STARTS.items() if head.startswith(start)]
    if not known and b"\0" not in head[:4]:
        return None
    message = f"is not UTF-8 text but {known[0] if known else 'binary data'} (byte 0 of the file)"
    return _file_problem(source.name, message, "save it as UTF-8 text", 1)


def _read_jsonl(source: DataFile) -> Iterator[RawRow | Problem]:
    name = source.name
    with source.path.open("rb") as file:
        offset = 0
        for line, raw in enumerate(file, 1):
            start, offset = offset, offset + len(raw)
            if line == 1 and raw.startswith(BOM):
                raw, start = raw[len(BOM) :], start + len(BOM)
            raw = raw.rstrip(BLANK)
            if raw:
                yield parse_value(raw, name, line, start)


def _read_json(source: DataFile) -> Iterator[RawRow | Problem]:
    """An array of rows. A file that holds one object a line is read as what it is, jsonl."""
    with source.path.open("rb") as file:
        data = file.read()
    body = data.removeprefix(BOM).lstrip(BLANK)
    if body.startswith(b"["):
        yield from parse_array(data, source.name)
    elif _is_jsonl(body):
        yield from _read_jsonl(source)
    elif body:
        offset = len(data) - len(body)
        yield _no_array(body, source.name, 1 + data.count(b"\n", 0, offset), offset)


def _is_jsonl(body: bytes) -> bool:
    first, _, rest = body.partition(b"\n")
    if not first.startswith(b"{") or not rest.lstrip(BLANK).startswith(b"{"):
        return False
    try:
        orjson.loads(first)
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
