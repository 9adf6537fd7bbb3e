"""Checkpoint folders → complete or absent: sealed with sizes and digests, verified when read.

    checkpoints/checkpoint-50/   adapter, optimizer, schedule, random states, trainer state
                    COMPLETE.json   written last: every file's size and sha256

A checkpoint without its marker, or with a file that is missing or differs from it, does not count:
`latest` passes over it and `set_aside_broken` renames it. A file that cannot be read is neither:
that stops the run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from lorawright.errors import RunFolderError, TrainError
from lorawright.run import owned
from lorawright.run.files import TEMPORARY, sha256, sync
from lorawright.run.files import write_atomically as write_atomically

MARKER = "COMPLETE.json"
NAME = re.compile(r"checkpoint-(\d+)")
ANY_NAME = re.compile(r"checkpoint-\d+(\.(broken|kept)(-\d+)?)?")

# What an exact resume reads, by the layouts of one process, DDP, ZeRO and FSDP.
NEEDED = {
    "the adapter": re.compile(r"adapter_model\.(safetensors|bin)"),
    "the optimizer's state": re.compile(
        r"optimizer\.(pt|bin)|global_step\d+/.*optim_states\.pt|optimizer_\d+/.+"
    ),
    "the schedule's state": re.compile(r"scheduler\.pt"),
    "the trainer's state": re.compile(r"trainer_state\.json"),
    "random states": re.compile(r"rng_state(_\d+)?\.pth"),
}
STATE_FILE = re.compile(
    r"optimizer\.(pt|bin)|optimizer_\d+/.+|scheduler\.pt|scaler\.pt|trainer_state\.json|"
    r"rng_state(_\d+)?\.pth|pytorch_model_fsdp\w*(\.bin|/.+)|global_step\d+/[^/]+\.pt|latest|"
    r"zero_to_(fp32|torch)\.py"
)


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Marks a checkpoint as complete, durably: files first, marker last.

    Args:
        folder: The checkpoint, all files written.
        facts: What the checkpoint belongs to: step, and hashes of config, data and plan.

    Raises:
        TrainError: Something is missing that an exact resume reads.
    """
    names = sorted(name for name in owned.files_in(folder) if not name.startswith(MARKER))
    lacking = missing(names)
    if lacking is not None:
        raise TrainError(
            f"holds no {lacking}, without which a run cannot go on exactly",
            where=str(folder),
            hint="the checkpoint does not count; see `training.trl` for what leaves it out",
        )
    files = {}
    for name in names:
        path = folder / name
        sync(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_atomically(
        folder / MARKER, orjson.dumps({**facts, "files": files}, option=orjson.OPT_INDENT_2)
    )


def missing(names: list[str]) -> str | None:
    """What an exact resume reads and is not among a checkpoint's files; None: nothing."""
    for what, pattern in NEEDED.items():
        if not any(pattern.fullmatch(name) for name in names):
            return what.removeprefix("the ")
    return None


def read(folder: Path) -> dict[str, Any] | None:
    """The marker's facts, or None if the checkpoint is not complete.

    Raises:
        RunFolderError: A file cannot be read, so that nothing can be said of it.
    """
    if not (folder / MARKER).is_file():
        return None  # reading a pipe would wait for ever
    try:
        facts: dict[str, Any] = orjson.loads((folder / MARKER).read_bytes())
        files: dict[str, dict[str, Any]] = facts["files"]
        intact = missing(list(files)) is None and all(
            (folder / name).stat().st_size == file["bytes"]
            and sha256(folder / name) == file["sha256"]
            for name, file in files.items()
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunFolderError(
            f"cannot be read: {error.strerror}",
            where=str(error.filename or folder),
            hint="nothing was changed; see to the disk and its permissions, then try again",
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # half a marker, or one of another shape
    return facts if intact else None


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint under `root`."""
    return next((folder for folder in _newest_first(root) if read(folder) is not None), None)


def set_aside_broken(root: Path) -> list[tuple[Path, Path]]:
    """Renames incomplete checkpoints; returns their old and new names, newest first."""
    broken = [folder for folder in _newest_first(root) if read(folder) is None]
    return [(folder, _rename_aside(folder, "broken")) for folder in broken]


def keep_newest(root: Path, num_kept: int) -> None:
    """Removes all but the newest complete checkpoints; called after one has been sealed.

    Only files that were there when a checkpoint was sealed: a folder that someone has put another
    file into stays, under another name.
    """
    complete = [folder for folder in _newest_first(root) if read(folder) is not None]
    for folder in complete[num_kept:]:
        files = own_files(folder)
        if set(owned.files_in(folder)) - set(files):
            folder = _rename_aside(folder, "kept")
        owned.remove(folder, files)
        owned.remove_empty([folder])


def own_files(folder: Path) -> list[str]:
    """Names of a checkpoint's files, by its marker or as the libraries name them; marker first."""
    try:
        listed = set(orjson.loads((folder / MARKER).read_bytes())["files"])
    except (OSError, ValueError, LookupError, TypeError):
        listed = set()
    found = [
        name
        for name in owned.files_in(folder)
        if name in listed or owned.MODEL_FILE.fullmatch(name) or STATE_FILE.fullmatch(name)
    ]
    return [MARKER, MARKER + TEMPORARY, *found]


def step_of(folder: Path) -> int:
    match = NAME.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def _rename_aside(folder: Path, why: str) -> Path:
    """`checkpoint-20.broken`, or the first of `checkpoint-20.broken-2` … that is free."""
    aside, number = folder.with_name(f"{folder.name}.{why}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = folder.with_name(f"{folder.name}.{why}-{number}")
    folder.rename(aside)
    return aside


def _newest_first(root: Path) -> Iterator[Path]:
    found = [p for p in root.glob("checkpoint-*") if NAME.fullmatch(p.name) and p.is_dir()]
    return iter(sorted(found, key=step_of, reverse=True))
