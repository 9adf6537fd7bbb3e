"""`kill -9` inside a verb, at many points: what stands is old, new or absent, never half.

The verbs run in processes forked from one that has imported everything: a kill costs little.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import SERVER
from helpers import rows, write_jsonl

from lorawright.config import Config
from lorawright.run import owned
from lorawright.run.checkpoint import latest
from lorawright.run.folder import RunFolder
from lorawright.run.names import LOCK

MakeConfig = Callable[..., Config]
Point = tuple[str, str, int]  # module and name of a function, and the call of it that is the last

# `before` and `after` a function, by the number of the call
MERGE: list[Point] = [
    ("lorawright.run.owned:begin_work", "after", 1),
    ("lorawright.exporters.merge:save_file", "after", 1),
    ("lorawright.exporters.merge:copy_rest", "after", 1),
    ("lorawright.model.divergence:compare", "before", 1),
    ("pathlib:Path.rename", "before", 1),
    ("pathlib:Path.rename", "after", 1),
    ("pathlib:Path.rename", "after", 2),
    ("lorawright.run.owned:remove", "before", 1),
    ("lorawright.run.folder:RunFolder.write_json", "before", 1),
    ("os:replace", "before", 1),
]
GGUF: list[Point] = [
    ("lorawright.exporters.gguf_file:write", "before", 1),
    ("lorawright.exporters.gguf_file:write", "after", 1),
    ("lorawright.exporters.gguf:note_written", "after", 1),
    ("lorawright.exporters.gguf:note_written", "after", 2),
    ("pathlib:Path.replace", "before", 1),
    ("pathlib:Path.replace", "after", 1),
    ("lorawright.run.folder:RunFolder.write_json", "before", 1),
    ("lorawright.run.folder:RunFolder.write_json", "after", 1),
]
ADAPTER: list[Point] = [
    ("lorawright.run.owned:begin_work", "after", 1),
    ("lorawright.run.card:write", "before", 1),
    ("lorawright.run.owned:finish_work", "before", 1),
    ("pathlib:Path.rename", "after", 1),
    ("pathlib:Path.rename", "after", 2),
    ("lorawright.training.artifacts:end", "before", 1),
]
EVALUATE: list[Point] = [
    ("lorawright.model.tuned:with_adapter", "before", 1),
    ("lorawright.run.folder:RunFolder.write_json", "before", 1),
    ("os:replace", "before", 1),
    ("os:replace", "after", 1),
]
CHECK: list[Point] = [
    ("tempfile:mkdtemp", "after", 1),
    ("lorawright.dataset.prepare:_build_of", "before", 1),
    ("pathlib:Path.rename", "before", 1),
    ("pathlib:Path.rename", "after", 1),
]


def kill_at(point: Point) -> None:
    """Has this process end at that point, without a word."""
    where, when, last = point
    module, name = where.split(":")
    holder: Any = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    found, num_calls = getattr(holder, name), 0

    def call(*arguments: Any, **more: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = found(*arguments, **more)
        if num_calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, call)


def work(arguments: list[str], environment: dict[str, str], point: Point | None) -> None:
    """What a forked process does."""
    from lorawright.cli import run

    os.environ.update(environment)
    if point is not None:
        kill_at(point)
    os._exit(run(arguments))


def run(arguments: list[str], point: Point | None = None) -> int | None:
    """The exit code of a command in a process of its own; after a kill, -9."""
    process = SERVER.Process(target=work, args=(arguments, dict(os.environ), point))
    process.start()
    process.join(120)
    return process.exitcode


def ids(point: Point) -> str:
    return f"{point[1]} {point[0].split(':')[1]} {point[2]}"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in owned.files_in(folder)}


def left_over(root: Path) -> list[str]:
    """What a killed command may leave, and the next one may not."""
    return [
        name
        for name in owned.files_in(root)
        if LOCK in name or any(part.endswith((".tmp", ".old")) for part in Path(name).parts)
        or ".tmp." in name or ".building" in name
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_a_merge_that_is_killed(own_run: Path, there: bool) -> None:
    """Into a folder that holds an older model and a note, and into none."""
    target = own_run / "merged"
    command = ["merge", str(own_run), "--overwrite"]
    assert run(command) == 0
    new = (target / "model.safetensors").read_bytes()
    for point in MERGE:
        marker = owned.read(target)
        assert marker is not None
        if there:
            (target / "model.safetensors").write_bytes(b"the old one")
            (target / "notes.txt").write_bytes(b"mine")
        else:
            shutil.rmtree(target)
        code = run(command, point)
        assert code == -signal.SIGKILL or (not there and code == 0), ids(point)
        stands = target if target.exists() else target.with_name("merged.old")
        if stands.exists():
            assert (stands / "model.safetensors").read_bytes() in (b"the old one", new), ids(point)
        assert run(command) == 0, ids(point)
        assert (target / "model.safetensors").read_bytes() == new, ids(point)
        assert not there or (target / "notes.txt").read_bytes() == b"mine", ids(point)
        assert not left_over(own_run), ids(point)


@pytest.mark.slow
def test_an_export_that_is_killed(own_run: Path) -> None:
    output = own_run / "gguf"
    command = ["export", str(own_run), "--to", "gguf", "--overwrite"]
    assert run(command) == 0
    (output / "notes.txt").write_bytes(b"mine")
    path = output / "run-f16.gguf"
    new, listed = path.read_bytes(), owned.read(output)
    for point in GGUF:
        path.write_bytes(b"the old one")
        assert run(command, point) == -signal.SIGKILL, ids(point)
        assert path.read_bytes() in (b"the old one", new), ids(point)
        assert run(command) == 0, ids(point)
        assert path.read_bytes() == new and owned.read(output) == listed, ids(point)
        assert (output / "notes.txt").read_bytes() == b"mine" and not left_over(own_run)


@pytest.mark.slow
def test_an_adapter_that_is_killed_while_it_is_written(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    source = tmp_path / "config.json"
    source.write_text(config.model_dump_json(exclude_unset=True))
    folder = RunFolder(Path(config.training.output))
    command = ["train", str(source)]
    assert run(command) == 0
    name = "adapter_model.safetensors"
    new = (folder.adapter / name).read_bytes()
    for point in ADAPTER:
        (folder.adapter / "notes.txt").write_bytes(b"mine")
        assert run([*command, "--resume"], point) == -signal.SIGKILL, ids(point)
        stands = folder.adapter if folder.adapter.exists() else folder.path / "adapter.old"
        assert (stands / name).read_bytes() == new, ids(point)
        assert latest(folder.checkpoints) is not None
        assert run([*command, "--resume"]) == 0, ids(point)
        assert folder.finished_adapter() is not None
        assert (folder.adapter / "notes.txt").read_bytes() == b"mine", ids(point)
        assert not left_over(folder.path), ids(point)


@pytest.mark.slow
def test_an_evaluation_that_is_killed(own_run: Path) -> None:
    command = ["evaluate", str(own_run), "--samples", "0"]
    result, report = own_run / "evaluation.json", own_run / "report.html"
    report.unlink()  # each evaluation writes it anew
    before = contents(own_run)
    for point in EVALUATE:
        assert run(command, point) == -signal.SIGKILL, ids(point)
        assert result.exists() == (point == ("os:replace", "after", 1)), ids(point)
        assert run(command) == 0, ids(point)
        result.unlink()
        report.unlink()
        assert contents(own_run) == before, ids(point)


@pytest.mark.slow
def test_a_check_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has a whole entry or none; what another left in it long ago goes."""
    monkeypatch.setenv("LORAWRIGHT_CACHE", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "data" / "train.jsonl", rows(6))
    source = tmp_path / "config.yaml"
    source.write_text("model: {name: tiny}\ndata: {train: data/train.jsonl}\n")
    assert run(["check", str(source)]) == 0
    (entry,) = (tmp_path / "cache" / "prepared").iterdir()
    whole = contents(entry)
    for point in CHECK:
        shutil.rmtree(tmp_path / "cache")
        assert run(["check", str(source)], point) == -signal.SIGKILL, ids(point)
        assert run(["check", str(source)]) == 0, ids(point)
        assert contents(entry).keys() == whole.keys(), ids(point)
        left = [path for path in entry.parent.iterdir() if path != entry]
        for path in left:
            for one in (path, *path.iterdir()):
                os.utime(one, (1, 1))
        shutil.rmtree(entry)
        assert run(["check", str(source)]) == 0
        assert list(entry.parent.iterdir()) == [entry], ids(point)
