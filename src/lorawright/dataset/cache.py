"""Prepared chats kept by content: `~/.cache/lorawright/prepared/KEY`, or below LORAWRIGHT_CACHE.

    prepared/.building-HOST-PID-…/   while chats are encoded; counts for nothing
    prepared/KEY/                    renamed when it is complete

KEY names everything the result depends on: data files, tokenizer, template and the words it may
name, settings, versions of what renders and tokenizes, the day where the template writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import orjson

from lorawright import masks
from lorawright.config.schema import Config
from lorawright.data import fingerprint
from lorawright.errors import DataError
from lorawright.run import lock

CACHE_VERSION = 4  # raise when ids, spans or the layout of the cache change
COMPLETE = "findings.json"  # written last
FILES = (COMPLETE, "train.arrow", "eval.arrow")
BUILDING = ".building-"
DEAD_SECONDS = (
    600  # untouched; a process that lives elsewhere under this host's name goes on writing
)
ABANDONED_SECONDS = 7 * 24 * 3600  # of a process that cannot be asked: on another machine
LIBRARIES = ("transformers", "jinja2", "tokenizers")
HINT = "set LORAWRIGHT_CACHE (for data on the hub: TMPDIR) to a folder with room, writable"


def folder_of(
    config: Config, encoder: masks.Encoder, contents: fingerprint.Contents | None
) -> Path | None:
    """Where the chats of this config lie or will lie; None for data that has no local content."""
    if contents is None:
        return None
    tokenizer = encoder.tokenizer
    parts = [
        CACHE_VERSION,
        {library: version(library) for library in LIBRARIES},
        fingerprint.fingerprint(contents),
        config.data.model_dump(mode="json"),
        config.model.name,
        tokenizer.template_sha256,
        tokenizer.tokenizer_sha256,
        tokenizer.template_date,
        dict(tokenizer.variables),
        sorted(tokenizer.stop_ids),
        tokenizer.generation_stops,
        encoder.tags,
    ]
    key = hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    root = os.environ.get("LORAWRIGHT_CACHE") or "~/.cache/lorawright"
    return Path(root).expanduser() / "prepared" / key


def is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).is_file()


def fill(target: Path, build: Callable[[Path], object]) -> None:
    """Complete or absent: built beside the target, then renamed.

    Args:
        target: From `folder_of`.
        build: Writes everything into the folder it is given.

    Raises:
        DataError: The cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        prefix = f"{BUILDING}{_host()}-{os.getpid()}-"
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from None
    try:
        with explained(work):
            build(work)
            try:
                work.rename(target)
            except OSError:
                if not is_complete(target):  # else another process was faster
                    raise
    finally:
        _remove(work)


@contextlib.contextmanager
def explained(work: Path) -> Iterator[None]:
    """What cannot be read or written while chats are encoded into a folder, in words.

    Raises:
        DataError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _unreadable(work, error) or _unwritable(work, error) from None


def _unwritable(target: Path, error: OSError) -> DataError:
    return DataError(
        f"the cache of prepared chats cannot be written: {error}",
        where=str(target.parent),
        hint=HINT,
    )


def _unreadable(work: Path, error: OSError) -> DataError | None:
    """Where it is another file than ours that fails."""
    if error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(work.parent):
        return None
    return DataError(
        f"cannot be read: {error.strerror}",
        where=os.fsdecode(error.filename),
        hint="see whether the file and its disk are in order",
    )


def _remove_abandoned(parent: Path) -> None:
    """What processes that were killed have left."""
    for folder in parent.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):  # another process removes it just now
            if _is_abandoned(folder):
                _remove(folder)


def _is_abandoned(folder: Path) -> bool:
    touched = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    untouched_seconds = time.time() - touched
    match = re.fullmatch(rf"{re.escape(BUILDING)}(.+)-(\d{{1,9}})-[^-]+", folder.name)
    if match and match[1] == _host() and _can_ask() and not lock.is_alive(int(match[2])):
        return untouched_seconds > DEAD_SECONDS
    return untouched_seconds > ABANDONED_SECONDS


def _remove(folder: Path) -> None:
    """Only files of our names; a folder that holds another stays."""
    for name in FILES:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _host() -> str:
    return re.sub(r"[^\w.]", "_", socket.gethostname()) or "localhost"


def _can_ask() -> bool:
    return sys.platform != "win32"  # there, signal 0 would end the process
