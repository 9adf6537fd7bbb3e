"""Files that are damaged, no files at all, or not to be read: one problem with an address each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorawright.config.schema import DataSettings
from lorawright.data import Reader
from lorawright.data.fingerprint import contents
from lorawright.data.rows import read_rows
from lorawright.data.sources import DataFile
from lorawright.dataset import prepare
from lorawright.errors import DataError
from lorawright.types import Conversation, Kind, Problem

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
LINE = orjson.dumps(ROW) + b"\n"


def run(train: Path | str, **more: Any) -> tuple[Reader, list[Conversation], list[Problem]]:
    reader = Reader(DataSettings(train=str(train), **more))
    items = list(reader)
    chats = [item for item in items if isinstance(item, Conversation)]
    problems = [item for item in items if isinstance(item, Problem)]
    for problem in problems:
        assert problem.hint and (problem.where + problem.message + problem.hint).isprintable()
    return reader, chats, problems


DAMAGE = """
import random, sys
from pathlib import Path
from lorawright.data.rows import read_rows
from lorawright.data.sources import DataFile
from lorawright.types import Problem

whole, folder = Path(sys.argv[1]), Path(sys.argv[2])
target = folder / f"damaged{whole.suffix}"
for seed in range(200):
    rng, data = random.Random(seed), bytearray(whole.read_bytes())
    if seed % 4 == 0:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.choice([0, 1, 4]) if seed % 4 == 0 else 1):
        data[rng.randrange(len(data))] = rng.randrange(256)
    target.write_bytes(data)
    items = list(read_rows(DataFile(target, "damaged")))
    assert items, seed
    for item in items:
        assert not isinstance(item, Problem) or (item.file == "damaged" and item.hint), seed
print("all answered")
"""


def chats_table() -> pa.Table:
    call = {"function": {"name": "f", "arguments": {"city": "x"}}}
    last = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [{"messages": [*ROW["messages"], last], "id": number} for number in range(7)]
    return pa.Table.from_pylist(rows)


def write_table(path: Path, layout: str) -> Path:
    table = chats_table()
    if layout == "parquet":
        pq.write_table(table, path)
        return path
    new = pa.ipc.new_stream if layout == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


@pytest.mark.parametrize("layout", ["stream", "file", "parquet"])
def test_a_damaged_table_never_ends_the_process(tmp_path: Path, layout: str) -> None:
    suffix = ".parquet" if layout == "parquet" else ".arrow"
    whole = write_table(tmp_path / f"whole{suffix}", layout)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(whole), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "all answered\n"), done.stderr[-2000:]


def test_a_table_that_breaks_off_has_the_row(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.arrow", "stream")
    path.write_bytes(path.read_bytes()[:-700])
    _, _, problems = run(path)
    (problem,) = (p for p in problems if p.kind is Kind.FILE)
    assert problem.line == 7 and "from this row on" in problem.message


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([["Hi"], ["Hello"], ["lost"]], names=["prompt", "completion", "prompt"])
    pq.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("prompt,prompt,completion\na,b,c\n")
    (tmp_path / "y.csv").write_text("prompt,completion,,\na,c,,\n")
    for name in ("x.parquet", "x.csv"):
        _, chats, (problem,) = run(tmp_path / name)
        assert not chats and problem.message == "has a column twice: `prompt`"
    assert len(run(tmp_path / "y.csv")[1]) == 1, "columns without a name hide nothing"


def test_names_that_are_not_utf8_are_shown_and_hashed(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/d"
    os.mkdir(folder)
    for name in (b"caf\xe9.jsonl", b"two\nlines.jsonl", b"esc\x1b[31m.jsonl"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(LINE + b"{broken\n")
    _, chats, problems = run(tmp_path / "d")
    assert len(chats) == 3 and len([p for p in problems if p.kind is Kind.SYNTAX]) == 3
    shown = sorted(Path(chat.file).name for chat in chats)
    assert shown == [r"caf\xe9.jsonl", r"esc\x1b[31m.jsonl", r"two\nlines.jsonl"]
    orjson.dumps([problem.where for problem in problems])
    assert contents(DataSettings(train=str(tmp_path / "d"))) is not None


def no_file(path: Path, what: str) -> str:
    """Makes it, and returns what is said of it."""
    if what == "pipe":
        os.mkfifo(path)
        return "it is a named pipe, not a file"
    if what == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
        return "it is a socket, not a file"
    if what == "device":
        path.symlink_to("/dev/zero")
        return "it is a device, not a file"
    path.symlink_to("nowhere.jsonl")
    return "it is a link to nowhere.jsonl, where nothing is"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv", ".parquet", ".arrow"])
@pytest.mark.parametrize("what", ["pipe", "socket", "device", "link"])
def test_what_is_no_file_is_a_problem_and_never_a_hang(
    tmp_path: Path, what: str, extension: str
) -> None:
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / f"x{extension}"
    said = no_file(path, what)
    (tmp_path / "d/good.jsonl").write_bytes(LINE)
    assert contents(DataSettings(train=str(path))) is None
    for source, num_chats in ((path, 0), (tmp_path / "d", 1)):
        _, chats, (problem, *_) = run(source)
        assert len(chats) == num_chats
        assert (problem.file, problem.kind) == (str(path), Kind.FILE)
        assert problem.message == f"cannot be read: {said}"


UNREADABLE = """
import os, sys
import pyarrow.parquet
from lorawright.dataset import prepare
from lorawright.config.schema import DataSettings
from lorawright.data import Reader
if os.getuid() == 0:  # root may read everything
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for source in sys.argv[1:]:
    for item in Reader(DataSettings(train=source)):
        print(source, getattr(item, "where", ""), getattr(item, "message", "chat"), sep="|")
"""


def test_what_an_ordinary_user_may_not_read_is_a_problem(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for name in ("a/x.jsonl", "b/inner/x.jsonl", "c/x.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(LINE)
    for closed in (root / "a/x.jsonl", root / "b/inner", root / "c/x.parquet"):
        closed.chmod(0)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    sources = [str(root / name) for name in ("a", "a/x.jsonl", "b", "b/inner/x.jsonl", "c")]
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, *sources], capture_output=True, text=True, timeout=60
    )
    for closed in (root / "a/x.jsonl", root / "b/inner", root / "c/x.parquet"):
        closed.chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert {source for source, *_ in lines} == set(sources)
    assert all("cannot be read: Permission denied" in message for _, _, message in lines)
    assert [where for _, where, _ in lines] == [
        sources[0] + "/x.jsonl",
        sources[1],
        str(root / "b/inner"),
        sources[3],
        sources[4] + "/x.parquet",
    ]


@pytest.mark.parametrize("change", [b"", LINE * 3, LINE * 2 + b'{"a', b"\0" * 5000])
@pytest.mark.parametrize("extension", [".jsonl", ".csv", ".arrow", ".parquet"])
def test_a_file_that_changes_while_it_is_read_is_no_crash(
    tmp_path: Path, extension: str, change: bytes
) -> None:
    path = tmp_path / f"x{extension}"
    if extension == ".arrow":
        write_table(path, "stream")
    elif extension == ".parquet":
        write_table(path, "parquet")
    elif extension == ".csv":
        path.write_bytes(b"prompt,completion\n" + b"a,b\n" * 100_000)
    else:
        path.write_bytes(LINE * 10_000)
    rows = read_rows(DataFile(path, "x"))
    next(rows)
    path.write_bytes(change)
    assert all(item.file == "x" for item in rows)


def test_a_file_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    (problem,) = read_rows(DataFile(tmp_path / "x.jsonl", "x"))
    assert isinstance(problem, Problem) and "No such file" in problem.message


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b'"prompt,completion\n', Kind.SYNTAX), (b"prompt\xe9,completion\na,b\n", Kind.FILE)],
)
def test_a_broken_header_is_no_row(tmp_path: Path, content: bytes, kind: Kind) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    reader, chats, (problem, *_) = run(tmp_path / "x.csv")
    assert chats == [] and (problem.kind, problem.line) == (kind, None)
    assert reader.found[0].num_rows == 0


def test_packed_files_and_addresses_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("a.jsonl", "a.jsonl.gz", "b.jsonl.zst", "notes.zip"):
        (tmp_path / "d" / name).write_bytes(LINE)
    hints = {
        "d/b.jsonl.zst": "unpack it: `unzstd d/b.jsonl.zst`",
        "d/notes.zip": "unpack it: `unzip d/notes.zip`",
        "s3://bucket/x.jsonl": "download it first, and name the file",
        "https://example.org/x.jsonl": "download it first, and name the file",
        "https://huggingface.co/datasets/org/name/tree/main": "write `hf://org/name`",
    }
    for source, hint in hints.items():
        _, _, (problem,) = run(source)
        assert (problem.file, problem.hint) == (source, hint)
    _, chats, (problem,) = run("d")
    assert len(chats) == 1 and problem.file == "d/b.jsonl.zst" and problem.message == "is packed"


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows may have 20,000 bytes, so that files stay small."""
    most = 20_000
    for module in ("json_rows", "lines", "rows", "csv_rows"):
        monkeypatch.setattr(f"lorawright.data.{module}.MOST_ROW_BYTES", most)
    return most


@pytest.mark.parametrize("end", [b"", b'"}]}'])
def test_a_row_that_is_too_long_is_not_kept_in_memory(
    tmp_path: Path, short_rows: int, end: bytes
) -> None:
    long = LINE[:-5] + b"x " * 2_500_000 + end
    path = tmp_path / "x.jsonl"
    path.write_bytes(LINE + long + b"\n" + LINE)
    tracemalloc.start()
    items = list(read_rows(DataFile(path, "x")))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
    assert [item.line for item in items] == [1, 2, 3]
    assert isinstance(items[1], Problem) and "is longer than" in items[1].message


def test_a_row_that_is_too_long_in_every_text_format(tmp_path: Path, short_rows: int) -> None:
    long = "x" * short_rows
    (tmp_path / "x.csv").write_text(f'prompt,completion\na,b\na,"{long}x"\na,{long}\na,c\n')
    row = orjson.dumps({"prompt": "a", "completion": long}).decode()
    good = '{"prompt": "a", "completion": "b"}'
    (tmp_path / "x.json").write_text(f"[\n{good},\n{row},\n{good}]")
    for name, bad, num_rows in (("x.csv", [2, 3], 4), ("x.json", [3], 3)):
        reader, chats, problems = run(tmp_path / name, duplicates="drop")
        long_ones = [p for p in problems if "is longer than" in p.message]
        assert [p.line for p in long_ones] == bad
        assert reader.found[0].num_rows == num_rows
        assert {c.line for c in chats}.isdisjoint(bad)


def test_a_row_that_is_not_closed_does_not_swallow_a_long_file(
    tmp_path: Path, short_rows: int
) -> None:
    rows = [b'{"prompt": "a", "completion": "%d"}' % n for n in range(2000)]
    rows[3] = rows[3][:-1]
    (tmp_path / "x.json").write_bytes(b"[\n" + b",\n".join(rows) + b"\n]")
    reader, chats, (problem,) = run(tmp_path / "x.json")
    assert problem.line == 5 and problem.kind is Kind.SYNTAX
    assert len(chats) == 1999 and reader.found[0].num_rows == 2000


def test_millions_of_blank_lines_are_read_quickly(tmp_path: Path) -> None:
    for name, text in (("x.jsonl", LINE), ("x.json", b"[" + LINE + b"]")):
        (tmp_path / name).write_bytes(b"\n" * 1_000_000 + text)
        (item,) = read_rows(DataFile(tmp_path / name, "x"))
        assert item.line == 1_000_001


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_nesting_and_nul_bytes_are_one_problem_a_row(tmp_path: Path, name: str) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    row = b'{"messages": ' + deep + b"}"
    nul = LINE.strip().replace(b"Hi", b"H\0i")
    content = {
        "x.jsonl": row + b"\n" + nul + b"\n" + LINE,
        "x.json": b"[\n" + row + b",\n" + nul + b",\n" + LINE + b"]",
        "x.csv": b"messages\n" + deep + b"\n\0\0\0\n",
    }[name]
    (tmp_path / name).write_bytes(content)
    reader, chats, problems = run(tmp_path / name)
    assert len(chats) + len({p.line for p in problems}) == reader.found[0].num_rows
    assert all(p.line is not None for p in problems)


def test_what_changes_while_it_is_read_is_not_kept_for_what_it_was(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(num_rows=4)
    path = Path(config.data.train)
    before = path.read_bytes()
    build = prepare._build

    def change_and_build(*arguments: Any) -> prepare.Prepared:
        path.write_bytes(LINE)
        return build(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_build", change_and_build)
        with pytest.raises(DataError, match="changed while it was read"):
            prepare.run(config)
    path.write_bytes(before)
    assert prepare.run(config).stats["num_chats"] == 4


@pytest.mark.parametrize("written", ["object", "text", "tools", "csv"])
def test_an_integer_beyond_64_bits_is_not_read_as_another_number(
    tmp_path: Path, written: str
) -> None:
    """10**30 was trained as 1e+30; where it is said to no model it may stand."""
    given: Any = {"x": 10**30}
    function = {"name": "f", "arguments": json.dumps(given) if written == "text" else given}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
    tools = {"tools": [{"type": "function", "function": {"name": "f", "parameters": given}}]}
    messages = ROW["messages"] if written == "tools" else [*ROW["messages"], call]
    row = {"messages": messages, **(tools if written == "tools" else {})}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    if written == "csv":
        path = tmp_path / "a.csv"
        path.write_text('messages\n"' + json.dumps(messages).replace('"', '""') + '"\n')
    _, chats, problems = run(path)
    assert not chats and "integer beyond 64 bits" in problems[0].message and problems[0].line == 1
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({**ROW, "arguments": 10**30}) + "\n")
    assert len(run(path)[1]) == 1
