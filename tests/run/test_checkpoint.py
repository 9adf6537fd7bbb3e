"""Checkpoints are complete or they do not count."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from lorawright.errors import RunFolderError, TrainError
from lorawright.run import checkpoint, files
from lorawright.run.checkpoint import MARKER

FACTS = {"step": 5, "config": "abc"}


def written(root: Path, step: int) -> Path:
    """A checkpoint with all its files and no marker."""
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes([step % 256]) * 100)
    (folder / "trainer_state.json").write_text(f'{{"step": {step}}}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(name.encode())
    (folder / "latest").touch()
    return folder


def sealed(root: Path, *steps: int) -> list[Path]:
    folders = [written(root, step) for step in steps]
    for folder in folders:
        checkpoint.seal(folder, FACTS)
    return folders


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def _remove(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def _lengthen(folder: Path) -> None:
    (folder / "latest").write_bytes(b"x")


def _unmark(folder: Path) -> None:
    (folder / MARKER).unlink()


DAMAGES: list[Callable[[Path], None]] = [_remove, _truncate, _flip_a_bit, _lengthen, _unmark]
damaging = pytest.mark.parametrize("damage", DAMAGES)


def test_sealed_is_complete(tmp_path: Path) -> None:
    (folder,) = sealed(tmp_path, 5)
    facts = checkpoint.read(folder)
    assert facts is not None and {**facts, **FACTS} == facts
    assert set(facts["files"]) == set(names(folder)) - {MARKER}
    assert facts["files"]["latest"]["bytes"] == 0
    assert not list(folder.rglob("*.tmp"))


def test_unsealed_is_not_complete(tmp_path: Path) -> None:
    assert checkpoint.read(written(tmp_path, 5)) is None
    assert checkpoint.read(tmp_path / "checkpoint-6") is None


@damaging
def test_damaged_is_not_complete(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    (folder,) = sealed(tmp_path, 5)
    damage(folder)
    assert checkpoint.read(folder) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"{}",
        b"null",
        b"[]",
        b"3",
        b'{"files": []}',
        b'{"files": {"latest": 0}}',
    ],
)
def test_damaged_marker_is_not_complete(tmp_path: Path, content: bytes) -> None:
    (folder,) = sealed(tmp_path, 5)
    (folder / MARKER).write_bytes(content)
    assert checkpoint.read(folder) is None
    assert checkpoint.latest(tmp_path) is None


def test_sealing_again_is_complete(tmp_path: Path) -> None:
    (folder,) = sealed(tmp_path, 5)
    _truncate(folder)
    checkpoint.seal(folder, {"step": 6})
    facts = checkpoint.read(folder)
    assert facts is not None and facts["step"] == 6 and "config" not in facts


def test_sealing_after_a_kill_inside_the_seal_is_complete(tmp_path: Path) -> None:
    folder = written(tmp_path, 5)
    (folder / f"{MARKER}.tmp").write_bytes(b"{")
    checkpoint.seal(folder, FACTS)
    assert checkpoint.read(folder) is not None


def test_latest_is_by_number(tmp_path: Path) -> None:
    sealed(tmp_path, 50, 100, 9)
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-100"


@damaging
def test_latest_passes_over_damaged_ones(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folders = sealed(tmp_path, 50, 100, 150)
    damage(folders[2])
    assert checkpoint.latest(tmp_path) == folders[1]
    damage(folders[1])
    damage(folders[0])
    assert checkpoint.latest(tmp_path) is None


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "none") is None


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-", "checkpoint-5-old", "best", "checkpoint-x"):
        (tmp_path / name).mkdir()
    sealed(tmp_path, 5)
    assert checkpoint.set_aside_broken(tmp_path) == []
    checkpoint.keep_newest(tmp_path, 1)
    kept = ["best", "checkpoint-", "checkpoint-5", "checkpoint-5-old", "checkpoint-x"]
    assert names(tmp_path) == kept


@damaging
def test_incomplete_ones_are_renamed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Nothing of them is lost; a second one of the same step takes the next name."""
    folders = sealed(tmp_path, 5, 10, 15)
    damage(folders[0])
    damage(folders[2])
    left = {path.name: path.read_bytes() for path in folders[2].iterdir()}
    aside = [folder.with_name(folder.name + ".broken") for folder in folders]
    expected = [(folders[2], aside[2]), (folders[0], aside[0])]
    assert checkpoint.set_aside_broken(tmp_path) == expected
    assert {path.name: path.read_bytes() for path in aside[2].iterdir()} == left
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-15.broken", "checkpoint-5.broken"]
    assert checkpoint.set_aside_broken(tmp_path) == []
    damage(sealed(tmp_path, 15)[0])
    assert checkpoint.set_aside_broken(tmp_path)[0][1].name == "checkpoint-15.broken-2"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_read_error_is_no_incomplete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It stops with an address; the checkpoint keeps its name, and counts when it can be read."""
    folder = sealed(tmp_path, 20)[0]

    def fail(path: Path) -> str:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sha256", fail)
        for call in (checkpoint.set_aside_broken, checkpoint.latest):
            with pytest.raises(RunFolderError, match=os.strerror(number)) as error:
                call(tmp_path)
            assert str(folder) in str(error.value.where)
    assert names(tmp_path) == ["checkpoint-20"] and checkpoint.latest(tmp_path) == folder


@pytest.mark.parametrize(
    "name, what",
    [
        ("optimizer.pt", "optimizer's state"),
        ("scheduler.pt", "schedule's state"),
        ("rng_state.pth", "random states"),
        ("trainer_state.json", "trainer's state"),
        ("adapter_model.safetensors", "adapter"),
    ],
)
def test_what_a_resume_needs_is_sealed_or_nothing(tmp_path: Path, name: str, what: str) -> None:
    folder = written(tmp_path, 5)
    (folder / name).unlink()
    with pytest.raises(TrainError, match=f"holds no {what}"):
        checkpoint.seal(folder, FACTS)
    assert checkpoint.read(folder) is None and not (folder / MARKER).exists()


def test_a_sealed_checkpoint_without_optimizer_does_not_count(tmp_path: Path) -> None:
    """As an earlier version sealed them where `training.trl` left the optimizer out."""
    (folder,) = sealed(tmp_path, 5)
    facts = checkpoint.read(folder)
    assert facts is not None
    (folder / "optimizer.pt").unlink()
    del facts["files"]["optimizer.pt"]
    (folder / MARKER).write_bytes(orjson.dumps(facts))
    assert checkpoint.read(folder) is None


@pytest.mark.parametrize(
    "names",
    [
        ["optimizer.bin", "pytorch_model_fsdp.bin", "rng_state_0.pth", "rng_state_1.pth"],
        ["global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt", "rng_state_0.pth", "latest"],
    ],
    ids=["fsdp", "zero"],
)
def test_layouts_of_several_processes(names: list[str]) -> None:
    common = ["adapter_model.safetensors", "scheduler.pt", "trainer_state.json"]
    assert checkpoint.missing([*common, *names]) is None


@pytest.mark.parametrize("num_kept", [1, 2, 3, 9])
def test_keep_newest(tmp_path: Path, num_kept: int) -> None:
    sealed(tmp_path, 5, 10, 100)
    checkpoint.keep_newest(tmp_path, num_kept)
    kept = [100, 10, 5][:num_kept]
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in kept)


@damaging
def test_keep_newest_never_removes_the_last_complete_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folders = sealed(tmp_path, 5, 10, 15)
    damage(folders[2])
    checkpoint.keep_newest(tmp_path, 1)
    assert checkpoint.latest(tmp_path) == folders[1]
    assert not folders[0].exists()


def test_keep_newest_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """A note that someone has put into a checkpoint stays; the folder gets another name."""
    folders = sealed(tmp_path, 5, 10)
    (folders[0] / "notes.txt").write_text("best so far")
    checkpoint.keep_newest(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5.kept"]
    assert names(tmp_path / "checkpoint-5.kept") == ["notes.txt"]


def test_windows_opens_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    own = os.open

    def refuse_folders(path: Path, *arguments: int) -> int:
        opened.append(Path(path))
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return own(path, *arguments)

    folder = written(tmp_path, 5)
    monkeypatch.setattr(files.sys, "platform", "win32")
    monkeypatch.setattr(files.os, "open", refuse_folders)
    checkpoint.seal(folder, FACTS)
    assert checkpoint.read(folder) is not None
    assert folder / "optimizer.pt" in opened and folder not in opened


def test_step_of(tmp_path: Path) -> None:
    assert checkpoint.step_of(tmp_path / "checkpoint-120") == 120


def test_write_atomically_replaces_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    checkpoint.write_atomically(path, b"long content")
    checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.json"]


def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk is full")

    path = tmp_path / "a.json"
    checkpoint.write_atomically(path, b"old")
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="full"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment the marker appears, every file has been synced."""
    folder = written(tmp_path, 5)
    synced: list[Path] = []
    monkeypatch.setattr(checkpoint, "sync", synced.append)
    monkeypatch.setattr(checkpoint, "write_atomically", lambda path, _: synced.append(path))
    checkpoint.seal(folder, FACTS)
    assert synced[-1] == folder / MARKER
    assert set(synced[:-1]) == {p for p in folder.rglob("*") if p.is_file()}
