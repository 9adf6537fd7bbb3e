"""JSON text → rows, each with the line it starts on; broken ones become problems.

orjson does the reading. The slow paths below run only for text it refuses, or where a look at the
bytes says that a key may stand twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from lorawright.data.problems import clip, quote
from lorawright.types import Kind, Problem

BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
BLANKS = re.compile(rb"[ \t\r\n]*+")
MEGABYTE = 2**20
MOST_ROW_BYTES = 64 * MEGABYTE  # of one row; reading and encoding it takes many times that
TOKEN = re.compile(rb'"(?>[^"\\\n]+|\\[^\n])*+"?|[\[\]{},]')  # a raw line end closes a string too
NO_NUMBER = re.compile(r"-?(NaN|Infinity|nan|inf)\b")
NUMBERS_COUNT = (b"arguments", b"tool", b"function")  # other numbers are not said to a model
LONG_INTEGER = re.compile("[0-9]{19}")
MOST_DIGITS = 4300  # Python reads no more
CLOSES = {ord("}"): ord("{"), ord("]"): ord("[")}


class RawRow(NamedTuple):
    """A row as it stands in its file; `line` as in `Problem`."""

    file: str
    line: int
    value: Any


def parse_value(raw: bytes, file: str, line: int, offset: int = 0) -> RawRow | Problem:
    """One JSON value; `offset` is where `raw` starts in its file, in bytes."""
    if len(raw) > MOST_ROW_BYTES:
        return too_long(file, line)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _explain(raw, error, file, line, offset)
    value = exact(raw, value)
    if may_repeat_keys(raw, value) and (path := _repeated_key(raw)) is not None:
        return Problem(
            file, line, path, "stands twice in its object", "keep one of the two", Kind.SHAPE
        )
    return RawRow(file, line, value)


def exact(raw: bytes, value: Any) -> Any:
    """A row with its integers as they stand: of those beyond 64 bits orjson makes floats."""
    return exact_inside(raw.decode(), value) if any(w in raw for w in NUMBERS_COUNT) else value


def exact_inside(text: str, value: Any) -> Any:
    """The same for JSON inside a text."""
    if LONG_INTEGER.search(text) is None:
        return value
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:  # nested deeper than this parser reads; such rows are refused anyway
        return value


def _integer(text: str) -> int:
    return int(text[:MOST_DIGITS])  # more of them are refused in whatever place counts


def may_repeat_keys(raw: bytes, value: Any) -> bool:
    """More quotes in the text than its value needs; `\\u0022` for a quote can hide a repeated key.

    Costs 0.7 us a row of 300 bytes, 6 % of the whole reading.
    """
    if type(value) is not dict:
        return False
    try:
        dump = orjson.dumps(value)
    except orjson.JSONEncodeError:  # nested deeper than orjson writes, or longer integers
        return False
    return raw.count(b'"') > dump.count(b'"')


def _repeated_key(raw: bytes) -> str | None:
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        found.extend(key for index, key in enumerate(keys) if key in keys[:index])
        return dict(pairs)

    json.loads(raw, object_pairs_hook=look)
    return clip(found[0]) if found else None


def _explain(
    raw: bytes, error: orjson.JSONDecodeError, file: str, line: int, offset: int
) -> Problem:
    try:
        text = raw.decode()
    except UnicodeDecodeError as bad:
        return not_utf8(file, line + raw.count(b"\n", 0, bad.start), offset + bad.start)
    if "surrogate" in error.msg and (found := _lone_surrogate(text)) is not None:
        path, escaped = found
        message = f"holds half a character ({escaped}, a lone surrogate)"
        return Problem(
            file, line, path, message, "write the whole character or remove it", Kind.SHAPE
        )
    at = f"column {error.colno}"
    if error.lineno > 1:
        at = f"line {line + error.lineno - 1}, {at}"
    near = text[max(0, error.pos - 20) : error.pos + 20]
    is_signed = text[error.pos - 1 : error.pos] == "-"  # orjson points behind the sign
    no_number = NO_NUMBER.match(text, error.pos - is_signed)
    reason = f"{no_number[0]} is no JSON number" if no_number else error.msg
    hint = "write null or leave the key out" if no_number else _hint_for_broken(text, error.msg)
    message = f"is not JSON: {reason} at {at}, near {quote(near)}"
    return Problem(file, line, "", message, hint, Kind.SYNTAX)


def _hint_for_broken(text: str, reason: str) -> str:
    if "end of data" in reason:
        return "the row is cut off: complete it or remove the line"
    if "'" in text[:3]:
        return "JSON wants double quotes; this looks like Python: write it with json.dumps"
    return "write the row as one JSON object"


def too_long(file: str, line: int | None) -> Problem:
    most = MOST_ROW_BYTES // MEGABYTE
    message = f"is longer than {most} MB, the most that one row may have"
    hint = "no model reads a chat of that length: split the row, or remove it"
    return Problem(file, line, "", message, hint, Kind.SHAPE)


def not_utf8(file: str, line: int | None, offset: int) -> Problem:
    message = f"is not UTF-8 text (byte {offset} of the file)"
    return Problem(file, line, "", message, "save the file as UTF-8", Kind.FILE)


def _lone_surrogate(text: str) -> tuple[str, str] | None:
    """Where a lone surrogate stands, with its escape; None if the text is broken otherwise too."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return next(_surrogates(value, ""), None)


def _surrogates(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        match = re.search("[\ud800-\udfff]", value)
        if match:
            yield path, ascii(match[0])[1:-1]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _surrogates(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            name = clip(key.encode("utf-8", "backslashreplace").decode())
            inner = f"{path}.{name}" if path else name
            yield from _surrogates(key, inner)
            yield from _surrogates(item, inner)


def parse_array(data: bytes, file: str) -> Iterator[RawRow | Problem]:
    """The rows of a JSON array.

    From the first broken row on, a row ends at the latest where a line starts like the first row's
    (a raw line end never stands inside a JSON string), and reading goes on there.
    """
    start = _skip_blank(data, len(BOM) if data.startswith(BOM) else 0) + 1
    mark = _row_mark(data, start)
    line, counted = 1, 0
    is_first, is_broken = True, False
    while True:
        begin = _skip_blank(data, start)
        line, counted = line + data.count(b"\n", counted, begin), begin
        next_row = data.find(mark, begin) if mark and is_broken else -1
        end = _row_end(data, begin, next_row)
        ending = data[end : end + 1]
        if is_first and begin == end and ending == b"]":
            break
        is_long = end - begin > MOST_ROW_BYTES
        raw = data[begin : begin + MOST_ROW_BYTES + 1] if is_long else data[begin:end].rstrip(BLANK)
        item = _array_row(raw, file, line, begin, is_open=end == next_row)
        is_bad = isinstance(item, Problem) and (is_long or item.kind is not Kind.SHAPE)
        if is_bad and not is_broken:
            is_broken = True
            continue
        yield item
        if ending not in (b",", b"\n"):
            break
        start, is_first = end + 1, False
    yield from _after_array(data, end, file, line + data.count(b"\n", counted, end))


def _array_row(raw: bytes, file: str, line: int, offset: int, *, is_open: bool) -> RawRow | Problem:
    """`is_open`: the next row starts, and no comma stood between the two."""
    if not raw:
        message, hint = "a row is missing after a comma", "remove the comma, or write the row"
        return Problem(file, line, "", message, hint, Kind.SYNTAX)
    item = parse_value(raw.removesuffix(b",") if is_open else raw, file, line, offset)
    if is_open and isinstance(item, RawRow):
        message, hint = "no comma after this row", "rows of an array have a comma between them"
        return Problem(file, line, "", message, hint, Kind.SYNTAX)
    return item


def _after_array(data: bytes, end: int, file: str, line: int) -> Iterator[Problem]:
    if end == len(data):
        message, hint = "the array of rows is not closed", "the file is cut off: expected `]`"
        yield Problem(file, line, "", message, hint, Kind.SYNTAX)
    elif rest := data[end + 1 :].strip(BLANK):
        near = quote(rest[:80].decode(errors="replace"))
        message = f"something follows the end of the array, near {near}"
        yield Problem(file, line, "", message, "a json file holds one array of rows", Kind.SYNTAX)


def _skip_blank(data: bytes, start: int) -> int:
    blanks = BLANKS.match(data, start)
    assert blanks is not None
    return blanks.end()


def _row_mark(data: bytes, start: int) -> bytes | None:
    """Line end, indent and brace before the first row, if it starts a line."""
    begin = _skip_blank(data, start)
    line_end = data.rfind(b"\n", start, begin)
    return data[line_end : begin + 1] if line_end >= 0 and data[begin : begin + 1] == b"{" else None


def _row_end(data: bytes, start: int, next_row: int) -> int:
    """Position of the comma or bracket that ends the row; the next row, or the end of the data.

    Args:
        data: The file.
        start: Where the row starts.
        next_row: Where the next one must have started; -1: not known, or there is none.
    """
    stop = len(data) if next_row < 0 else next_row
    opened = bytearray()
    for match in TOKEN.finditer(data, start, stop):
        token = data[match.start()]
        if token in b"[{":
            opened.append(token)
        elif token in b"]}":
            at = opened.rfind(CLOSES[token])
            if at >= 0:
                del opened[at:]
            elif token == ord("]") and next_row < 0:
                return match.start()
        elif token == ord(",") and not opened:
            return match.start()
    return stop
