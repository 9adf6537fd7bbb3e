"""Checkpoints are complete or they do not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorawright import checkpoint
from lorawright.checkpoint import MARKER

FACTS = {"step": 5, "config": "abc"}


def written(root: Path, step: int) -> Path:
    """A checkpoint with all its files and no marker."""
    folder = root / f"checkpoint-{step}"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights.safetensors").write_bytes(bytes([step % 256]) * 100)
    (folder / "state.json").write_text(f'{{"step": {step}}}')
    (folder / "empty").touch()
    return folder


def sealed(root: Path, *steps: int) -> list[Path]:
    folders = [written(root, step) for step in steps]
    for folder in folders:
        checkpoint.seal(folder, FACTS)
    return folders


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def _remove(folder: Path) -> None:
    (folder / "adapter" / "weights.safetensors").unlink()


def _truncate(folder: Path) -> None:
    path = folder / "adapter" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    path = folder / "adapter" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def _lengthen(folder: Path) -> None:
    (folder / "empty").write_bytes(b"x")


def _unmark(folder: Path) -> None:
    (folder / MARKER).unlink()


DAMAGES: list[Callable[[Path], None]] = [_remove, _truncate, _flip_a_bit, _lengthen, _unmark]
damaging = pytest.mark.parametrize("damage", DAMAGES)


def test_sealed_is_complete(tmp_path: Path) -> None:
    (folder,) = sealed(tmp_path, 5)
    facts = checkpoint.read(folder)
    assert facts is not None and {**facts, **FACTS} == facts
    assert set(facts["files"]) == {"adapter/weights.safetensors", "state.json", "empty"}
    assert facts["files"]["empty"]["bytes"] == 0
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
    [b"", b"{", b"\xff", b"{}", b"null", b"[]", b"3", b'{"files": []}', b'{"files": {"empty": 0}}'],
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
    assert checkpoint.remove_incomplete(tmp_path) == []
    checkpoint.keep_newest(tmp_path, 1)
    checkpoint.remove_after(tmp_path, 0)
    assert names(tmp_path) == ["best", "checkpoint-", "checkpoint-5-old", "checkpoint-x"]


@damaging
def test_remove_incomplete(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folders = sealed(tmp_path, 5, 10, 15)
    damage(folders[0])
    damage(folders[2])
    assert checkpoint.remove_incomplete(tmp_path) == [folders[2], folders[0]]
    assert names(tmp_path) == ["checkpoint-10"]
    assert checkpoint.remove_incomplete(tmp_path) == []


def test_remove_after(tmp_path: Path) -> None:
    sealed(tmp_path, 5, 10, 100)
    checkpoint.remove_after(tmp_path, 10)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5"]


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
    monkeypatch.setattr(checkpoint.os, "fsync", refuse)
    with pytest.raises(OSError, match="full"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment the marker appears, every file has been synced."""
    folder = written(tmp_path, 5)
    synced: list[Path] = []
    monkeypatch.setattr(checkpoint, "_sync", synced.append)
    monkeypatch.setattr(checkpoint, "write_atomically", lambda path, _: synced.append(path))
    checkpoint.seal(folder, FACTS)
    assert synced[-1] == folder / MARKER
    assert set(synced[:-1]) == {p for p in folder.rglob("*") if p.is_file()}
