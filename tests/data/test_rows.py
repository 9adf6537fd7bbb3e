"""Files → raw rows: every row has its line, every broken one a problem, and reading goes on."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.data.json_rows import RawRow, parse_array, parse_value
from lorawright.data.rows import read_rows
from lorawright.data.sources import DataFile
from lorawright.types import Kind, Problem


def read(path: Path) -> tuple[list[tuple[int, Any]], list[Problem]]:
    rows, problems = [], []
    for item in read_rows(DataFile(path, path.name)):
        if isinstance(item, Problem):
            problems.append(item)
        else:
            rows.append((item.line, item.value))
    for problem in problems:
        assert problem.file == path.name
        assert len(problem.message) < 250 and problem.message.isprintable()
        assert problem.hint
    return rows, problems


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl_counts_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '\ufeff{"a": 1}\r\n\n  \n {"a": "é"}\n{"a": 3}')
    rows, problems = read(path)
    assert rows == [(1, {"a": 1}), (4, {"a": "é"}), (5, {"a": 3})]
    assert problems == []


def test_half_a_line_is_a_problem_and_reading_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a": 1}\n{"a": "half\n{"a": 3}\n')
    rows, (problem,) = read(path)
    assert [line for line, _ in rows] == [1, 3]
    assert (problem.line, problem.kind) == (2, Kind.SYNTAX)
    assert "end of data at column" in problem.message and "half" in problem.message
    assert "cut off" in problem.hint


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_syntax(tmp_path: Path, number: str) -> None:
    _, (problem,) = read(write(tmp_path / "x.jsonl", f'{{"a": {number}}}\n'))
    assert problem.kind is Kind.SYNTAX
    assert f"{number} is no JSON number at column " in problem.message


def test_python_dict_is_recognized(tmp_path: Path) -> None:
    _, (problem,) = read(write(tmp_path / "x.jsonl", "{'a': 1}\n"))
    assert "json.dumps" in problem.hint


def test_lone_surrogate_has_its_path(tmp_path: Path) -> None:
    text = r'{"messages": [{"content": "ok \ud83d\ude00"}, {"content": "x \ud800 y"}]}'
    _, (problem,) = read(write(tmp_path / "x.jsonl", text))
    assert (problem.kind, problem.path) == (Kind.SHAPE, "messages[1].content")
    assert r"\ud800" in problem.message


def test_bytes_that_are_no_utf8_have_line_and_offset(tmp_path: Path) -> None:
    lines = [b'{"a": "one"}\n', b'{"a": "caf\xe9"}\n', b'{"a": "three"}\n']
    rows, (problem,) = read(write(tmp_path / "x.jsonl", b"".join(lines)))
    assert [line for line, _ in rows] == [1, 3]
    assert (problem.kind, problem.line) == (Kind.FILE, 2)
    assert f"byte {b''.join(lines).index(0xE9)} of the file" in problem.message


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
@pytest.mark.parametrize("content", ['{"a": 1}\n'.encode("utf-16"), b"\x1f\x8b\x08\0\0\0\n\n"])
def test_a_file_that_is_no_text_is_one_problem(tmp_path: Path, name: str, content: bytes) -> None:
    rows, (problem,) = read(write(tmp_path / name, content))
    assert rows == [] and problem.kind is Kind.FILE and "not UTF-8" in problem.message


@pytest.mark.parametrize("extension", ["jsonl", "ndjson", "json", "csv"])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_empty_file(tmp_path: Path, extension: str, content: str) -> None:
    rows, (problem,) = read(write(tmp_path / f"x.{extension}", content))
    assert rows == []
    assert (problem.kind, problem.line) == (Kind.FILE, None)


@pytest.mark.parametrize("extension", ["parquet", "arrow"])
@pytest.mark.parametrize("content", [b"", b"this is no table at all"])
def test_broken_table(tmp_path: Path, extension: str, content: bytes) -> None:
    rows, (problem,) = read(write(tmp_path / f"x.{extension}", content))
    assert rows == [] and problem.kind is Kind.FILE


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"role": "user", "role": "assistant"}', "role"),
        ('{"a": [{"b" : 1, "c": 2, "b"\t: 3}]}', "b"),
    ],
)
def test_a_key_that_stands_twice_is_not_lost_silently(text: str, path: str) -> None:
    problem = parse_value(text.encode(), "x", 1)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.path) == (Kind.SHAPE, path)


def test_ten_megabytes_in_one_row(tmp_path: Path) -> None:
    text = 'wörds \\" \\n' * 1_000_000
    for name, content in (
        ("x.jsonl", f'{{"a": "{text}"}}\n{{"a": "{text}}}\n{{"a": 1}}\n'),
        ("x.json", f'[\n{{"a": "{text}"}},\n{{"a": "{text}}},\n{{"a": 1}}\n]'),
    ):
        rows, problems = read(write(tmp_path / name, content))
        first = 1 if name == "x.jsonl" else 2
        assert [line for line, _ in rows] == [first, first + 2]
        assert len(rows[0][1]["a"]) == 9_000_000
        assert [problem.line for problem in problems] == [first + 1]


def test_jsonl_is_read_in_constant_memory(tmp_path: Path) -> None:
    line = json.dumps({"a": "x" * 1000}) + "\n"
    path = write(tmp_path / "x.jsonl", line * 20_000)
    tracemalloc.start()
    num_rows = sum(1 for _ in read_rows(DataFile(path, "x")))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_rows == 20_000 and peak_bytes < 1_000_000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(JSON_VALUES, min_size=1, max_size=6), st.sampled_from([None, 0, 2]), st.booleans())
def test_array_scanner_finds_the_rows_json_finds(
    values: list[Any], indent: int | None, is_ascii: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=is_ascii)
    rows = list(parse_array(text.encode(), "x"))
    assert all(isinstance(row, RawRow) for row in rows)
    assert [row.value for row in rows] == values


@settings(deadline=None, max_examples=60)
@given(st.lists(JSON_VALUES, min_size=1, max_size=6), st.data())
def test_array_scanner_ends_on_any_cut(values: list[Any], data: st.DataObject) -> None:
    raw = json.dumps(values, indent=1).encode()
    cut = data.draw(st.integers(1, len(raw) - 1))
    items = list(parse_array(raw[:cut], "x"))
    assert any(isinstance(item, Problem) for item in items)
    rows = [item.value for item in items if not isinstance(item, Problem)]
    # A number can be cut into another number; all rows before it are whole.
    assert rows[:-1] == values[: max(0, len(rows) - 1)]


def test_array_rows_know_their_lines(tmp_path: Path) -> None:
    values = [{"a": [1, {"b": "}],["}]}, {"a": 'quote " \\'}, {"a": 3}]
    text = json.dumps(values, indent=2)
    rows, problems = read(write(tmp_path / "x.json", text))
    assert problems == []
    starts = [number for number, line in enumerate(text.splitlines(), 1) if line == "  {"]
    assert rows == list(zip(starts, values, strict=True))


def test_broken_array_row_has_line_and_column_and_reading_goes_on(tmp_path: Path) -> None:
    broken = ['{"a": "open}', '{"a": [1}', '{"a": nope}', '{"a": 1]}', '{"a" 1}', '{"a": 1} {}']
    lines = ["[", '{"a": 0},']
    for text in broken:
        lines += [text + ",", '{"a": "good"},']
    lines += ['{"a": "last"}', "]"]
    rows, problems = read(write(tmp_path / "x.json", "\n".join(lines)))
    assert [problem.line for problem in problems] == [3, 5, 7, 9, 11, 13]
    assert all(problem.kind is Kind.SYNTAX for problem in problems)
    assert all("column" in problem.message for problem in problems)
    assert [line for line, _ in rows] == [2, 4, 6, 8, 10, 12, 14, 15]


def test_row_that_is_not_closed_ends_at_the_next_row(tmp_path: Path) -> None:
    for indent, first in ((2, "  {"), (0, "{")):
        rows = [json.dumps({"a": index}, indent=indent or None) for index in range(4)]
        rows[1] = rows[1].removesuffix("}")
        text = "[\n" + ",\n".join(rows).replace("{", first) + "\n]"
        found, problems = read(write(tmp_path / "x.json", text))
        assert [row["a"] for _, row in found] == [0, 2, 3]
        assert len(problems) == 1 and "end of data" in problems[0].message
        assert text.splitlines()[(problems[0].line or 0) - 1].startswith(first)
    rows, (problem,) = read(write(tmp_path / "y.json", '[\n{"a": 1}\n{"a": 2}\n]'))
    assert (problem.line, problem.message) == (2, "no comma after this row")
    assert rows == [(3, {"a": 2})]


def test_array_without_indent_is_read(tmp_path: Path) -> None:
    values = [{"a": 1}, {"a": {"b": [{}, {"c": 1}]}}]
    rows, problems = read(write(tmp_path / "x.json", json.dumps(values, indent=0)))
    assert [row for _, row in rows] == values and problems == []


def test_many_broken_array_rows_take_linear_time() -> None:
    text = "[\n" + '{"a": 1,\n' * 50_000 + "]"
    items = list(parse_array(text.encode(), "x"))
    assert [item.line for item in items] == list(range(2, 50_002))


@pytest.mark.parametrize(
    ("text", "num_rows", "message"),
    [
        ('[{"a": 1}, {"a": 2}', 2, "is not closed"),
        ('[{"a": 1}, ]', 1, "missing after a comma"),
        ('[{"a": 1}] [2]', 1, "follows the end"),
        ("[", 0, "is not closed"),
    ],
)
def test_array_that_ends_wrong(tmp_path: Path, text: str, num_rows: int, message: str) -> None:
    rows, problems = read(write(tmp_path / "x.json", text))
    assert len(rows) == num_rows
    assert message in problems[-1].message and problems[-1].kind is Kind.SYNTAX


def test_object_in_a_json_file_is_told_what_to_write(tmp_path: Path) -> None:
    _, (problem,) = read(write(tmp_path / "x.json", '{"data": [{"a": 1}]}'))
    assert "expected an array" in problem.message and "`data`" in problem.hint
    _, (problem,) = read(write(tmp_path / "y.json", '\n{"messages": [{"a": 1}]}'))
    assert problem.line == 2 and "`[` and `]`" in problem.hint
    _, (problem,) = read(write(tmp_path / "z.json", '{"messages": [{"a": 1}'))
    assert problem.kind is Kind.SYNTAX


def test_json_file_of_one_object_a_line_is_jsonl(tmp_path: Path) -> None:
    rows, problems = read(write(tmp_path / "x.json", '{"a": 1}\n{"a": 2}\n'))
    assert rows == [(1, {"a": 1}), (2, {"a": 2})] and problems == []


def test_csv_counts_rows_and_parses_json_cells(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": 'two\nlines, "quoted"'}]
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["messages", "prompt", "tools"])
        writer.writerow([json.dumps(messages, indent=1), "[1] is text", "[]"])
        file.write("\n")
        writer.writerow(["", json.dumps(messages), ""])
    rows, problems = read(path)
    assert problems == []
    assert rows == [
        (1, {"messages": messages, "prompt": "[1] is text", "tools": "[]"}),
        (2, {"messages": None, "prompt": messages, "tools": ""}),
    ]


def test_csv_problems_have_row_numbers(tmp_path: Path) -> None:
    text = 'messages,id\n[],1\n[],2,3\n"[{\'role\': 1}]",4\n[],5\n"open,6\n'
    rows, problems = read(write(tmp_path / "x.csv", text))
    assert [line for line, _ in rows] == [1, 4]
    assert [(p.line, p.kind) for p in problems] == [
        (2, Kind.SHAPE),
        (3, Kind.SHAPE),
        (5, Kind.SYNTAX),
    ]
    assert "json.dumps" in problems[1].hint
    _, (problem,) = read(write(tmp_path / "y.csv", b"prompt\nok\ncaf\xe9\n"))
    assert problem.kind is Kind.FILE and "byte 13 " in problem.message


CHATS = [
    {
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": {"city": "x"}}}],
            },
        ],
        "tools": [{"name": "f", "parameters": {"city": {"type": "string"}}}],
    },
    {
        "messages": [
            {
                "role": "assistant",
                "content": "b",
                "tool_calls": [{"function": {"name": "g", "arguments": {"day": "y"}}}],
            },
        ],
        "tools": [{"name": "g", "parameters": {"day": {"type": "string"}}}, {"name": "h"}],
    },
]


def arrow_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def arrow_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


@pytest.mark.parametrize(
    ("name", "save"),
    [("x.parquet", pq.write_table), ("x.arrow", arrow_stream), ("x.arrow", arrow_file)],
)
def test_tables_lose_the_nulls_that_arrow_put_in(tmp_path: Path, name: str, save: Any) -> None:
    save(pa.Table.from_pylist(CHATS), tmp_path / name)
    rows, problems = read(tmp_path / name)
    assert problems == [] and [line for line, _ in rows] == [1, 2]
    for (_, row), chat in zip(rows, CHATS, strict=True):
        assert row["tools"] == chat["tools"]
        for message, wanted in zip(row["messages"], chat["messages"], strict=True):
            assert {k: v for k, v in message.items() if v is not None} == {
                k: v for k, v in wanted.items() if v is not None
            }


def test_saved_dataset_with_json_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    mixed = [
        {"messages": CHATS[0]["messages"], "tools": [{"name": "f", "x": [1, "a", None]}]},
        {"messages": CHATS[1]["messages"], "tools": [{"name": "f", "x": {"a": None}}]},
    ]
    saved = datasets.Dataset.from_list(mixed, on_mixed_types="use_json")
    saved.save_to_disk(str(tmp_path / "set"))
    (file,) = (tmp_path / "set").glob("*.arrow")
    rows, problems = read(file)
    assert problems == []
    assert [row for _, row in rows] == mixed, "JSON text keeps the nulls that were meant"


def test_list_columns_of_json_text_in_parquet(tmp_path: Path) -> None:
    table = {
        "messages": [json.dumps(chat["messages"]) for chat in CHATS],
        "tools": [[json.dumps(tool) for tool in chat["tools"]] for chat in CHATS],
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    rows, problems = read(tmp_path / "x.parquet")
    assert problems == [] and [row for _, row in rows] == CHATS
