"""Any file of any bytes: no exception, and rows read = rows kept + rows with an address."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.config.schema import DataSettings
from lorawright.data import Reader
from lorawright.types import Conversation, Problem, Severity

TEXTS = st.one_of(
    st.sampled_from(["Hi", "", " ", "{{name}}", "[1]", "{\"a\": 1}", "\0", "\ufeff", "<|im_end|>"]),
    st.text(max_size=6),
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
CALL = st.fixed_dictionaries(
    {}, optional={"id": JSON, "name": TEXTS, "arguments": JSON, "function": JSON, "x": JSON}
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "reasoning", "tool_call", "image"]) | JSON},
    optional={"text": TEXTS | JSON, "value": TEXTS | JSON, "tool_call": JSON | CALL},
)
ROLE = st.sampled_from(
    ["system", "user", "assistant", "tool", "human", "gpt", "function_call", "observation", "usr"]
)
CONTENT = TEXTS | st.lists(PART, max_size=3) | JSON
FLAG = st.sampled_from([None, 0, 1, True, False, 0.0, 0.5, "yes"])
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": ROLE | JSON, "from": ROLE, "content": CONTENT, "value": CONTENT,
        "tool_calls": st.lists(CALL, max_size=2) | JSON, "function_call": CALL | JSON,
        "train": FLAG, "weight": FLAG, "loss": FLAG, "loss_weight": FLAG,
        "tools": JSON, "reasoning_content": JSON, "mood": JSON,
    },
) | st.fixed_dictionaries({"role": ROLE, "content": TEXTS})  # fmt: skip
MESSAGES = st.lists(MESSAGE, max_size=4)
PLAIN = st.builds(
    lambda texts: {
        "messages": [
            {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
        ]
    },
    st.lists(TEXTS, min_size=1, max_size=4),
)
ROW = st.one_of(
    PLAIN,
    st.fixed_dictionaries(
        {},
        optional={
            "messages": MESSAGES | JSON, "conversations": MESSAGES, "prompt": TEXTS | MESSAGES,
            "completion": TEXTS | MESSAGES, "instruction": TEXTS, "input": TEXTS | JSON,
            "output": TEXTS, "history": JSON, "system": TEXTS | JSON, "tools": JSON,
            "functions": JSON, "tool": JSON, "id": JSON,
        },
    ),
    JSON,
)  # fmt: skip
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=4)), max_size=3)
TEXT_LAYOUTS = ["jsonl", "json", "csv"]


def as_bytes(rows: list[Any], layout: str) -> bytes:
    lines = [json.dumps(row) for row in rows]
    if layout == "jsonl":
        return "\n".join(lines).encode()
    if layout == "json":
        return ("[\n" + ",\n".join(lines) + "\n]").encode()
    columns = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        cells = row if isinstance(row, dict) else {}
        values = [cells.get(key) for key in columns]
        writer.writerow([v if isinstance(v, str) else json.dumps(v) for v in values])
    return out.getvalue().encode("utf-8", "surrogatepass")


def damaged(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for where, num_removed, put_in in changes:
        at = int(where * len(data))
        data = data[:at] + put_in + data[at + num_removed :]
    return data


def judge(path: Path) -> Reader:
    """Reads a file and holds it against the rule; every problem is one printable line."""
    reader = Reader(DataSettings(train=str(path)))
    items = list(reader)
    kept = [item.line for item in items if isinstance(item, Conversation)]
    problems = [item for item in items if isinstance(item, Problem)]
    refused = [p for p in problems if p.severity is not Severity.WARNING and p.line is not None]
    num_refused = sum(found.num_rows for found in reader.found) - len(kept)
    assert len({p.line for p in refused}) <= num_refused <= len(refused)
    if path.suffix != ".json":  # several rows of an array may stand on one line
        assert len({p.line for p in refused}) == num_refused
        assert {p.line for p in refused}.isdisjoint(kept)
    for problem in problems:
        assert problem.hint and len(problem.message) < 400
        assert (problem.message + problem.hint + problem.path).isprintable(), problem
    return reader


@pytest.mark.parametrize("layout", TEXT_LAYOUTS)
@settings(deadline=None, max_examples=60)
@given(rows=st.lists(ROW, max_size=5), changes=CHANGES)
def test_any_text_file(
    layout: str, rows: list[Any], changes: list[tuple[float, int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{layout}")
        data = damaged(as_bytes(rows, layout), changes)
        path.write_bytes(data)
        (found,) = judge(path).found
        if layout == "jsonl" and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b")):
            lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            num_lines = sum(bool(line.strip(b" \t\r")) for line in lines)
            assert found.num_rows in (num_lines, 1), "a binary file is one problem"


@pytest.mark.parametrize("layout", ["parquet", "arrow"])
@settings(deadline=None, max_examples=30)
@given(rows=st.lists(ROW.filter(lambda row: isinstance(row, dict)), min_size=1, max_size=4))
def test_any_table(layout: str, rows: list[Any]) -> None:
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError):
        table = pa.Table.from_pylist([{key: json.dumps(row[key]) for key in row} for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{layout}")
        try:
            if layout == "parquet":
                pq.write_table(table, path)
            else:
                with pa.ipc.new_stream(path, table.schema) as writer:
                    writer.write_table(table)
        except pa.ArrowException:  # parquet has no empty structs
            return
        judge(path)
