"""One process trains into a run folder; the lock of one that is gone holds nobody up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest

from lorawright.config import Config
from lorawright.errors import RunFolderError
from lorawright.run import lock
from lorawright.run.folder import RunFolder
from lorawright.run.names import LOCK
from lorawright.training import train
from lorawright.training.train import Start

MakeConfig = Callable[..., Config]
HOLD = """
import sys, time
from pathlib import Path
from lorawright.run import lock
with lock.held(Path(sys.argv[1]), "lock.json"):
    print("held", flush=True)
    time.sleep(600)
"""
TURNS = """
import sys, time
from pathlib import Path
from lorawright.run import lock
from lorawright.errors import RunFolderError
run, log = Path(sys.argv[1]), open(sys.argv[2], "ab", buffering=0)
while time.time() < float(sys.argv[3]):
    try:
        with lock.held(run, "lock.json"):
            log.write(b"in\\n")
            time.sleep(0.01)
            log.write(b"out\\n")
    except RunFolderError:
        time.sleep(0.001)
"""


@contextmanager
def holder(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def take(run: Path) -> None:
    with lock.held(run, LOCK):
        pass


def written(run: Path, holder: lock.Holder, age_seconds: float = 0.0) -> Path:
    run.mkdir(exist_ok=True)
    path = run / LOCK
    path.write_bytes(orjson.dumps(asdict(holder)))
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def test_held_once_and_gone_afterwards(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with lock.held(run, LOCK):
        assert (run / LOCK).is_file()
        with (
            pytest.raises(RunFolderError, match="is in use by `lorawright train`, process"),
            lock.held(run, LOCK),
        ):
            pass
        assert (run / LOCK).is_file()
    assert not list(run.iterdir())


def test_a_second_train_ends_in_one_line(make_config: MakeConfig) -> None:
    """Whatever way it begins; nothing is removed, and after a kill it goes on without asking."""
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    run = Path(config.training.output)
    with holder(run) as process:
        for start in Start:
            with pytest.raises(RunFolderError, match=f"process {process.pid} on") as caught:
                train.run(config, start=start)
            assert caught.value.where == str(run) and LOCK in str(caught.value.hint)
        assert [path.name for path in run.iterdir()] == [LOCK]
        process.send_signal(signal.SIGSTOP)  # stopped is not gone
        with pytest.raises(RunFolderError, match="is in use"):
            lock.refuse_if_held(run, LOCK)
        process.kill()
        process.wait()
        assert (run / LOCK).is_file()
        done = train.run(config)
    assert done.folder.finished_adapter() is not None and not (run / LOCK).exists()


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    """The process of the lock is gone, and its number was given out again: to ourselves."""
    run = tmp_path / "run"
    written(run, replace(lock._myself(), began="1"))
    take(run)


def test_a_lock_of_another_machine_counts_while_it_is_touched(tmp_path: Path) -> None:
    run = tmp_path / "run"
    other = replace(lock._myself(), name="node7", machine="node7 boot")
    written(run, other, age_seconds=lock.STALE_SECONDS - 30)
    with pytest.raises(RunFolderError, match="on node7") as caught:
        take(run)
    assert f"remove {run / LOCK}" in str(caught.value.hint)
    written(run, other, age_seconds=lock.STALE_SECONDS + 30)
    take(run)


def test_a_held_lock_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.01)
    with lock.held(tmp_path, LOCK):
        os.utime(tmp_path / LOCK, (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / LOCK).stat().st_mtime > 2


def test_half_a_lock_is_one_that_is_being_written_or_was_left(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    path.write_bytes(b"{")
    with pytest.raises(RunFolderError, match="a process that has just started"):
        take(tmp_path)
    os.utime(path, (1, 1))
    take(tmp_path)


def test_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none: made exclusively instead."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", refuse)
    with lock.held(tmp_path, LOCK), pytest.raises(RunFolderError, match="is in use"):
        take(tmp_path)


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_process_is_known_by_number_and_start(
    monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(lock.sys, "platform", system)
    own = lock._began(os.getpid())
    assert own is not None and own == lock._began(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert lock._began(process.pid) is None


def test_a_read_only_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFolderError, match="cannot be written: Read-only") as caught:
        take(tmp_path / "run")
    assert caught.value.where == str(tmp_path / "run")


def test_many_that_find_a_stale_lock_take_turns(tmp_path: Path) -> None:
    """Never two at once, though all see the same lock of a process that is gone."""
    run, log = tmp_path / "run", tmp_path / "log"
    written(run, replace(lock._myself(), began="1"))
    until = str(time.time() + 4)
    with ExitStack() as stack:
        command = [sys.executable, "-c", TURNS, str(run), str(log), until]
        processes = [stack.enter_context(subprocess.Popen(command)) for _ in range(5)]
    assert [process.returncode for process in processes] == [0] * 5
    lines = log.read_text().split()
    assert len(lines) > 4 and lines == ["in", "out"] * (len(lines) // 2)
    assert not list(run.iterdir()) and not RunFolder(run).holds_a_run()
