"""A folder and its marker → the files that were written here; nothing else is ever removed.

    lorawright.json    the marker of a folder that we made: its kind, and the names we wrote there

    run        by the names a run writes, see `run_names`
    others     by the list in the marker, which is written before the first of these files

A file is removed by its name in such a list, a folder only when that has left it empty. Links are
neither removed nor followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath

import orjson

from lorawright.errors import ConfigError, ModelError, RunFolderError
from lorawright.run.files import TEMPORARY, sha256, sync, write_atomically

MARKER = "lorawright.json"
FORMAT = 1
ASIDE = ".old"  # behind the name of a folder that has just been replaced

# What Transformers and PEFT write of a model, an adapter and its tokenizer.
MODEL_FILE = re.compile(
    r"README\.md|config\.json|generation_config\.json|adapter_config\.json|training_args\.bin|"
    r"(adapter_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|"
    r"tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|"
    r"vocab\.(json|txt)|merges\.txt|(tokenizer|sentencepiece|spiece)(\.bpe)?\.model|"
    r"chat_template\.(jinja|json)|additional_chat_templates/[^/]+\.jinja"
)


class Kind(StrEnum):
    """What a folder of ours is."""

    RUN = "run"  # a run folder
    ADAPTER = "adapter"  # its adapter
    MODEL = "merged model"  # a merged model
    EXPORT = "export"  # files for another program
    SCRIPT = "script"  # what `eject` writes


@dataclass(frozen=True, slots=True)
class Marker:
    """What a folder's marker says.

    Attributes:
        kind: What the folder is.
        files: Names of what we wrote there, relative, with `/`.
        sha256: Digests of those that must not change.
        finished: Whether this is the folder that was meant, not one half written or replaced.
    """

    kind: Kind
    files: tuple[str, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)
    finished: bool = True


def mark(folder: Path, marker: Marker) -> None:
    """Writes a folder's marker; before anything else that is to count as ours.

    Raises:
        RunFolderError: A file of its name is there that is not a marker.
    """
    if os.path.lexists(folder / MARKER) and read(folder) is None:
        raise RunFolderError(
            "is there, and not lorawright's, or damaged",
            where=str(folder / MARKER),
            hint="rename it, or choose another folder to write to",
        )
    content = {
        "format": FORMAT,
        "kind": marker.kind,
        "files": sorted(marker.files),
        "sha256": marker.sha256,
        "finished": marker.finished,
    }
    write_atomically(folder / MARKER, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def read(folder: Path) -> Marker | None:
    """A folder's marker; None if it is not one that we made, or the marker is damaged."""
    path = folder / MARKER
    if path.is_symlink() or not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
        return Marker(
            Kind(found["kind"]),
            tuple(str(name) for name in found["files"]),
            dict(found["sha256"]),
            bool(found["finished"]),
        )
    except (ValueError, LookupError, TypeError):
        return None


def remove(folder: Path, names: Iterable[str], kept: Collection[Path] = ()) -> None:
    """Removes files of ours, and the folders inside that this has emptied.

    Args:
        folder: Where.
        names: Relative names of what we wrote.
        kept: Folders that stay also when they are empty.
    """
    parents: set[Path] = set()
    for name in names:
        path = _inside(folder, name)
        if path is None or path.is_symlink() or not path.is_file():
            continue
        path.unlink()
        parents |= {parent for parent in path.parents if folder in parent.parents}
    remove_empty(parents.difference(kept))


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those folders, innermost first, that hold nothing."""
    for folder in sorted(set(folders), key=lambda path: len(path.parts), reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _inside(folder: Path, name: str) -> Path | None:
    """The file of that name, unless the name or a link leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        return None
    path = folder
    for part in parts[:-1]:
        path /= part
        if path.is_symlink():
            return None
    return path / parts[-1]


def begin_work(target: Path, marker: Marker) -> Path:
    """An empty, marked folder beside the target to write into; what a killed run left goes.

    Args:
        target: What the folder becomes, see `finish_work`.
        marker: Of the new content, with all names that may be written in it.

    Raises:
        RunFolderError: A folder stands there that is not ours.
    """
    put_back(target)
    work = target.with_name(target.name + TEMPORARY)
    drop_work(work)
    for path in (work, target.with_name(target.name + ASIDE)):
        remove_empty([path])  # a kill between the marker's removal and the folder's
        if os.path.lexists(path):
            raise RunFolderError(
                "is in the way: its name is taken, and not by lorawright",
                where=str(path),
                hint="rename it, or choose another folder to write to",
            )
    work.mkdir(parents=True)
    mark(work, replace(marker, finished=False))
    return work


def drop_work(work: Path) -> None:
    """Removes what we wrote into a folder from `begin_work`."""
    found = read(work)
    if work.is_symlink() or (found is not None and found.finished):
        return
    if found is not None:
        written = [name for name in files_in(work) if MODEL_FILE.fullmatch(name)]
        remove(work, (*found.files, *written, MARKER + TEMPORARY, MARKER))
    elif work.is_dir():
        remove(work, [MARKER + TEMPORARY])  # killed before it was marked
    remove_empty([work])


def finish_work(
    work: Path, target: Path, marker: Marker | None, replaced: Marker | None = None
) -> list[str]:
    """The written folder takes the target's place; a kill leaves the old one or the new one.

    Args:
        work: From `begin_work`.
        target: What it becomes.
        marker: Of the content as it is now; None: it is handed over and no longer ours.
        replaced: Of the folder that stands there, if one does.

    Returns:
        Names of what was there and is not ours; it is in the new folder.
    """
    for path in sorted(work.rglob("*")):
        sync(path)
    aside = target.with_name(target.name + ASIDE)
    if target.exists() and replaced is not None:
        mark(target, replace(replaced, finished=False))
        target.rename(aside)
    if marker is not None:
        mark(work, replace(marker, finished=False))  # killed before it is renamed, it is left over
    work.rename(target)
    if marker is None:
        (target / MARKER).unlink()
    else:
        mark(target, marker)
    sync(target.parent)
    return _drop_aside(aside, target) if aside.exists() else []


def put_back(target: Path) -> None:
    """Ends or takes back a replacing that was killed between the renames of `finish_work`."""
    aside = target.with_name(target.name + ASIDE)
    found = read(aside)
    if aside.is_symlink() or found is None or found.finished:
        return
    if os.path.lexists(target):
        _drop_aside(aside, target)
        return
    mark(aside, replace(found, finished=True))
    aside.rename(target)


def _drop_aside(aside: Path, target: Path) -> list[str]:
    """Removes the replaced folder; what in it was not ours moves into the new one."""
    found = read(aside)
    files = () if found is None else found.files
    moved = _move_foreign(aside, target, {*files, MARKER})
    remove(aside, (*files, MARKER))
    remove_empty([aside])
    return moved


def _move_foreign(aside: Path, target: Path, ours: set[str]) -> list[str]:
    """Brings what was not ours into the new folder, where its name is free; nothing is replaced."""
    moved: list[str] = []
    for name in sorted(set(files_in(aside)) - ours):
        goal = target / name
        if os.path.lexists(goal):
            goal = target / f"{name}{ASIDE}"
        if _inside(target, name) is not None and not os.path.lexists(goal):
            goal.parent.mkdir(parents=True, exist_ok=True)
            (aside / name).rename(goal)
            moved.append(goal.relative_to(target).as_posix())
    remove_empty([path for path in aside.rglob("*") if path.is_dir()])
    return moved


def files_in(folder: Path) -> Iterator[str]:
    """Relative names of all that is no folder, without following links."""
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(where) / name).relative_to(folder).as_posix()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of each of these files."""
    return {name: sha256(folder / name) for name in names}


def verify(folder: Path, hint: str) -> None:
    """Compares a folder of ours with its marker's digests; one without any is taken as it is.

    Args:
        folder: Where.
        hint: What to do about a file that has changed.

    Raises:
        ModelError: A file is missing, has changed, or cannot be read.
    """
    marker = read(folder)
    for name, expected in (marker.sha256 if marker is not None else {}).items():
        path = folder / name
        try:
            found = sha256(path)
        except FileNotFoundError:
            raise ModelError("is missing", where=str(path), hint=hint) from None
        except OSError as error:
            raise ModelError(
                f"cannot be read: {error.strerror}", where=str(path), hint=hint
            ) from None
        if found != expected:
            raise ModelError("has changed since it was written", where=str(path), hint=hint)


def refuse_places(output: Path, key: str, kept: Iterable[tuple[str, Path]]) -> None:
    """Refuses an output in which more would be written or removed than its own files.

    Args:
        output: A folder to write; links are followed.
        key: The key or option that names it.
        kept: What must neither be the output nor lie in it, each with what it is.

    Raises:
        ConfigError: It is such a place.
    """
    target = output.resolve()
    hint = "name a folder of its own, such as `runs/first`"
    if target.parent == target:
        raise ConfigError(f"is `{output}`, the root of a file system", where=key, hint=hint)
    for what, path in kept:
        place = path.resolve()
        if place == target:
            raise ConfigError(f"is `{output}`, which is {what}", where=key, hint=hint)
        if target in place.parents:
            raise ConfigError(f"is `{output}`, which holds {what}", where=key, hint=hint)


def usual_places() -> list[tuple[str, Path]]:
    """Folders that are never an output: the current one and the home folder."""
    home = os.path.expanduser("~")
    found = [("the current folder", Path.cwd())]
    return [*found, ("the home folder", Path(home))] if os.path.isabs(home) else found
