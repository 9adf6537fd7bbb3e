"""A run folder → held by one process at a time, also where several machines share it.

    RUN/lock.json    who holds it, since when, for which verb; touched while it is held

A lock whose process is gone is taken over without asking: the same machine is asked for the process
by number and start; of another machine the lock counts as long as it is touched.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson
import psutil

from lorawright.errors import RunFolderError

TOUCH_SECONDS = 10.0
HINT = "choose another `training.output`, or see to its permissions"
STALE_SECONDS = 120.0  # of another machine: a dozen touches missed


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, named so that no other one is taken for it.

    Attributes:
        name: The machine's, for people.
        machine: Machine, boot and, in containers, its space of process numbers.
        pid: Number of the process.
        began: When the process was started, by a clock that is never set.
        token: Of this lock.
        verb: What it does: `train`, `merge` and so on.
    """

    name: str
    machine: str
    pid: int
    began: str
    token: str
    verb: str = "train"


@contextmanager
def held(
    run: Path,
    name: str,
    *,
    verb: str = "train",
    hint: str = HINT,
    place: Path | None = None,
) -> Iterator[None]:
    """Holds the lock of a run folder while the block runs; makes the folder.

    Args:
        run: The folder.
        name: Of the lock file.
        verb: What this process does with the run, for others that find it held.
        hint: What to do where the folder cannot be written.
        place: What is locked, for messages, if it is not the folder.

    Raises:
        RunFolderError: Another process holds it, or the folder cannot be written.
    """
    path = run / name
    place = run if place is None else place
    try:
        run.mkdir(parents=True, exist_ok=True)
        mine = _take(path, verb, place)
    except OSError as error:
        raise RunFolderError(
            f"cannot be written: {error.strerror}",
            where=str(place),
            hint=hint,
        ) from None
    done = threading.Event()
    thread = threading.Thread(target=_touch, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def refuse_if_held(run: Path, name: str) -> None:
    """Raises RunFolderError while another process writes into the folder."""
    path = run / name
    found = _read(path)
    if found is not None and not _is_stale(path, found, time.time()):
        raise _held_error(path, found, run)


def _take(path: Path, verb: str, place: Path) -> Holder:
    mine = replace(_myself(), verb=verb)
    work = path.with_name(f"{path.name}.{mine.token}")
    try:
        work.write_bytes(orjson.dumps(asdict(mine), option=orjson.OPT_INDENT_2))
        # the file system's own clock: that of another machine may differ from ours
        now = work.stat().st_mtime
        while not _link(work, path):
            found = _read(path)
            if found is None:
                if path.exists() and now - path.stat().st_mtime < TOUCH_SECONDS:
                    raise _held_error(path, None, place)
            elif not _is_stale(path, found, now):
                raise _held_error(path, found, place)
            _remove_stale(path, found, work)
    finally:
        work.unlink(missing_ok=True)
    return mine


def _link(work: Path, path: Path) -> bool:
    """The whole lock under its name at once, or False where one stands already."""
    try:
        os.link(work, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with open(descriptor, "wb") as file:
            file.write(work.read_bytes())
    return True


def _remove_stale(path: Path, stale: Holder | None, work: Path) -> None:
    """Takes a stale lock away, unless another process has just done so and holds its own."""
    aside = work.with_name(work.name + ".stale")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _read(aside) != stale:
            _link(aside, path)
        aside.unlink()


def _touch(path: Path, done: threading.Event) -> None:
    while not done.wait(TOUCH_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _read(path: Path) -> Holder | None:
    if path.exists() and not path.is_file():
        return None  # reading a pipe would wait for ever
    try:
        return Holder(**orjson.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_stale(path: Path, found: Holder, now: float) -> bool:
    if found.machine == _machine():
        return _began(found.pid) != found.began
    try:
        return now - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def _held_error(path: Path, found: Holder | None, place: Path) -> RunFolderError:
    return RunFolderError(
        "is in use by a process that has just started"
        if found is None
        else f"is in use by `lorawright {found.verb}`, process {found.pid} on {found.name}",
        where=str(place),
        hint=f"wait for it, or stop it; if it is gone for certain, remove {path}",
    )


def _myself() -> Holder:
    pid = os.getpid()
    began = _began(pid)
    assert began is not None
    return Holder(platform.node(), _machine(), pid, began, uuid.uuid4().hex)


def _machine() -> str:
    if sys.platform != "linux":
        return f"{platform.node()} {uuid.getnode()}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists and has not ended, waited for or not."""
    return _began(pid) is not None


def _began(pid: int) -> str | None:
    """When a process was started; None if there is none of that number."""
    if sys.platform != "linux":
        try:
            return str(round(psutil.Process(pid).create_time()))
        except psutil.Error:
            return None
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # after the name, which may hold anything: state, then what no clock change moves
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]
