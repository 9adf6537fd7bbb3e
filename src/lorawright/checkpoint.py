"""Checkpoints that are complete or absent.

    checkpoints/checkpoint-50/   adapter, optimizer, schedule, random states, trainer state
                    COMPLETE.json   written last: every file's size and sha256

A checkpoint without its marker, or with a file that differs from it, does not count: `latest`
passes over it and `remove_incomplete` takes it away.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

MARKER = "COMPLETE.json"
NAME = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Marks a checkpoint as complete, durably: files first, marker last.

    Args:
        folder: The checkpoint, all files written.
        facts: What the checkpoint belongs to: step, and hashes of config, data and plan.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MARKER, f"{MARKER}.tmp"):
            _sync(path)
            files[str(path.relative_to(folder))] = {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
    write_atomically(
        folder / MARKER, orjson.dumps({**facts, "files": files}, option=orjson.OPT_INDENT_2)
    )


def read(folder: Path) -> dict[str, Any] | None:
    """The marker's facts, or None if the checkpoint is not complete."""
    try:
        facts: dict[str, Any] = orjson.loads((folder / MARKER).read_bytes())
        files: dict[str, dict[str, Any]] = facts["files"]
        intact = bool(files) and all(
            (folder / name).stat().st_size == file["bytes"]
            and _sha256(folder / name) == file["sha256"]
            for name, file in files.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # no marker, half of one, or one of another shape
    return facts if intact else None


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint under `root`."""
    return next((folder for folder in _newest_first(root) if read(folder) is not None), None)


def remove_incomplete(root: Path) -> list[Path]:
    """Takes incomplete checkpoints away; returns them."""
    broken = [folder for folder in _newest_first(root) if read(folder) is None]
    for folder in broken:
        shutil.rmtree(folder)
    return broken


def remove_after(root: Path, step: int) -> None:
    """Takes away checkpoints of steps that will be run again."""
    for folder in _newest_first(root):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def keep_newest(root: Path, num_kept: int) -> None:
    """Removes all but the newest complete checkpoints; called after one has been sealed."""
    complete = [folder for folder in _newest_first(root) if read(folder) is not None]
    for folder in complete[num_kept:]:
        shutil.rmtree(folder)


def step_of(folder: Path) -> int:
    match = NAME.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content or nothing, synced to disk."""
    work = path.with_name(path.name + ".tmp")
    with open(work, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(work, path)
    _sync(path.parent)


def _newest_first(root: Path) -> Iterator[Path]:
    found = [p for p in root.glob("checkpoint-*") if NAME.fullmatch(p.name) and p.is_dir()]
    return iter(sorted(found, key=step_of, reverse=True))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
