"""Made-up data for `tools/fuzz.py`: rows that are nearly right, in every layout, damaged or not,
beside what is no file at all."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_case import Case, changed, damaged

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
GOOD: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "sun", "tool_call_id": "call_1"},
            {"role": "assistant", "content": "Sun.", "weight": 1},
        ],
        "tools": [TOOL],
    },
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"instruction": "Sum", "input": "1 2", "output": "3", "history": [["a", "b"]]},
    {"prompt": "Hi", "completion": "Hello"},
    {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello", "functions": [CALL]},
]
ODD: list[Any] = [
    None, True, 0, -1, 1e308, 2**70, "", " ", "\0", "\ufeff", "\u202e", "<|im_end|>", "{{name}}",
    "<|im_start|>", "{% raw %}", "[/b]", "\U000f0000<|im_end|>\U000f0001", "你" * 300,
    "a" * 100_000, [], {}, [[]], {"": None}, [None], "[{", '{"a": 1}', "assistant", "function_call",
    "😀",
]  # fmt: skip
KEYS = [
    "role", "content", "from", "value", "tool_calls", "function_call", "train", "weight", "loss",
    "loss_weight", "tools", "functions", "name", "arguments", "id", "type", "text", "system",
    "reasoning_content", "messages", "conversations", "prompt", "completion", "instruction",
    "input", "output", "history", "tool_call_id", "rol", "contents",
]  # fmt: skip
NAMES = [
    b"a.jsonl", b"caf\xe9.jsonl", b"[/b].jsonl", b"[red]x.jsonl", b"a b.json", b"two\nlines.csv",
    "数据.parquet".encode(), b"X.JSONL", b"-x.arrow", b"x.ndjson", b"a.jsonl.gz", b"%s{0}.jsonl",
]  # fmt: skip
POLICIES = {
    "invalid": ["error", "drop"],
    "empty_answers": ["error", "drop", "keep"],
    "duplicates": ["keep", "drop", "error"],
    "untrained": ["error", "drop"],
    "special_tokens_in_text": ["error", "escape"],
    "overlong": ["error", "drop", "cut"],
    "max_length": [16, 512],
    "train_on": ["all", "last_assistant"],
    "format": ["auto", "messages", "sharegpt"],
}


def make(folder: Path, rng: random.Random) -> Case:
    """One config and its data: a few files, some of them odd."""
    data = os.fsencode(folder) + b"/data"
    os.mkdir(data)
    for name in rng.sample(NAMES, rng.choice([1, 1, 1, 2, 4])):
        _write(data + b"/" + name, rng)
    settings: dict[str, Any] = {"train": "data"}
    if rng.random() < 0.3:
        settings["eval"] = rng.choice([0.3, 0.01, "data"])
    for key in rng.sample(sorted(POLICIES), rng.choice([0, 1, 3])):
        settings[key] = rng.choice(POLICIES[key])
    config = {"model": {"name": "tiny"}, "data": settings}
    (folder / "c.yaml").write_text(json.dumps(config))  # JSON is YAML
    return Case(["check", "c.yaml", "--json"], (rows_with_an_address,))


def rows_with_an_address(found: dict[str, Any]) -> list[str]:
    """Rows read = rows kept + rows that have a problem with an address."""
    stats = found["stats"]
    if not stats:
        return []
    num_read = sum(file["num_rows"] for file in stats["files"])
    num_kept = stats["num_chats"] + (stats["eval"] or {"num_chats": 0})["num_chats"]
    refused = [p for p in found["problems"] if p["severity"] != "warning" and p["line"] is not None]
    places = {(p["file"], p["line"], p["split"] if _twice(stats) else "") for p in refused}
    has_arrays = any(file["file"].lower().endswith(".json") for file in stats["files"])
    num_refused = num_read - num_kept
    if len(places) == num_refused or (has_arrays and len(places) <= num_refused <= len(refused)):
        return []
    return [f"rows: {num_read} read, {num_kept} kept, {len(places)} places named"]


def _twice(stats: dict[str, Any]) -> bool:
    """Whether the same files are read for both sets."""
    return len({file["file"] for file in stats["files"]}) < len(stats["files"])


def _write(path: bytes, rng: random.Random) -> None:
    if rng.random() < 0.06:
        _no_file(path, rng)
        return
    share_changed = rng.choice([0.02, 0.3, 0.9])
    rows = [_row(rng, share_changed) for _ in range(rng.choice([0, 1, 2, 3, 8, 40]))]
    extension = os.fsdecode(os.path.splitext(path)[1]).lower()
    writer = WRITERS.get(extension, _jsonl)
    content = writer(rows, rng)
    if rng.random() < 0.25:
        content = damaged(content, rng)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def _no_file(path: bytes, rng: random.Random) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    kind = rng.randrange(4)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        os.symlink(b"nowhere", path)
    elif kind == 2:
        os.symlink(b"/dev/zero", path)
    else:
        os.mkdir(path)


def _row(rng: random.Random, share_changed: float) -> Any:
    row = copy.deepcopy(rng.choice(GOOD[:1] * 20 + GOOD))
    if rng.random() < share_changed:
        for _ in range(rng.choice([1, 1, 2, 5])):
            row = changed(row, rng, [*ODD, CALL, [CALL], *GOOD], KEYS)
    return row


def _jsonl(rows: list[Any], rng: random.Random) -> bytes:
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    if rng.random() < 0.05:
        lines.append("[" * 50_000 + "]" * 50_000)
    if rng.random() < 0.05:
        lines.insert(0, "\n" * 50_000)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _json(rows: list[Any], rng: random.Random) -> bytes:
    indent = rng.choice([None, 0, 2])
    return json.dumps(rows, indent=indent).encode()


def _csv(rows: list[Any], rng: random.Random) -> bytes:
    objects = [row if isinstance(row, dict) else {"prompt": row} for row in rows]
    columns = list(dict.fromkeys(key for row in objects for key in row))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in objects:
        cells = [row.get(key) for key in columns]
        writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return out.getvalue().encode("utf-8", "surrogatepass")


def _table(rows: list[Any]) -> pa.Table:
    objects = [row for row in rows if isinstance(row, dict)] or [GOOD[0]]
    try:
        return pa.Table.from_pylist(objects)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError):
        keys = list(dict.fromkeys(key for row in objects for key in row))
        texts = [{key: json.dumps(row.get(key)) for key in keys} for row in objects]
        return pa.Table.from_pylist(texts)


def _parquet(rows: list[Any], rng: random.Random) -> bytes:
    out = io.BytesIO()
    try:
        pq.write_table(_table(rows), out, compression=rng.choice(["none", "snappy", "zstd"]))
    except pa.ArrowException:  # it has no empty structs
        out = io.BytesIO()
        pq.write_table(_table([]), out)
    return out.getvalue()


def _arrow(rows: list[Any], rng: random.Random) -> bytes:
    out = io.BytesIO()
    table = _table(rows)
    new = rng.choice([pa.ipc.new_stream, pa.ipc.new_file])
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice([1, 3, 1000]))
    return out.getvalue()


WRITERS: dict[str, Callable[[list[Any], random.Random], bytes]] = {
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
