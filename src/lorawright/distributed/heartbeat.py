"""Heartbeats of a machine's ranks: small files in a local folder, for the launcher to read.

    rank-3.beat       pid, step, what it is doing, how far, since when, alive when

Times are `time.monotonic()`: one clock for all processes of a machine, which no correction of the
time of day moves, and which stands still while a laptop sleeps.

Files, because they outlive a process that is killed, and because a process that hangs in a
collective still leaves its last word. torch's elastic agent sees a rank that ends, not one that
hangs, and a timer in the rank itself (`faulthandler.dump_traceback_later`) would also run while the
whole group is stopped and goes on later (SIGSTOP, a debugger, a frozen container).
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from lorawright.run import lock

FOLDER, LAUNCHER = "LORAWRIGHT_CONTROL", "LORAWRIGHT_LAUNCHER_PID"
"""Variables of a process that a launcher watches: where they talk, whom it follows."""
ALIVE_SECONDS = 1.0  # between two signs of life
BEAT_BYTES = 256


@dataclass(frozen=True, slots=True)
class Beat:
    """Where a process is.

    Attributes:
        rank: Over all machines.
        pid: On this machine.
        doing: In words: `step 12: backward`.
        count: Grows with every sign of progress; equal work has equal counts on all ranks.
        progress_time: Of the last progress, by the machine's monotonic clock.
        alive_time: Of the last sign of life, by the same clock.
        has_ended: Whether it is done, without an error.
        stopped_by: The signal that ended the run before its last step, after a checkpoint.
    """

    rank: int
    pid: int
    doing: str
    count: int
    progress_time: float
    alive_time: float
    has_ended: bool = False
    stopped_by: int | None = None


class Heartbeat:
    """A rank's own beat; a thread shows that it lives, and ends it when its launcher is gone.

    Args:
        folder: Shared with the launcher.
        rank: Over all machines.
        launcher_pid: None: nobody to follow.
    """

    def __init__(self, folder: Path, rank: int, launcher_pid: int | None) -> None:
        self._file = os.open(folder / f"rank-{rank}.beat", os.O_WRONLY | os.O_CREAT)
        self._launcher_pid = launcher_pid
        self._lock = threading.Lock()
        now = time.monotonic()
        self._beat = Beat(rank, os.getpid(), "starting", 0, now, now)
        self._write()
        threading.Thread(target=self._live, daemon=True).start()

    def __call__(self, doing: str) -> None:
        """Notes progress."""
        now = time.monotonic()
        with self._lock:
            before = self._beat
            self._beat = Beat(before.rank, before.pid, doing, before.count + 1, now, now)
            self._write()

    def end(self, stopped_by: int | None = None) -> None:
        """Notes that all went well; `stopped_by`: see `Beat`."""
        with self._lock:
            self._beat = replace(self._beat, has_ended=True, stopped_by=stopped_by)
            self._write()

    def _live(self) -> None:
        while True:
            time.sleep(ALIVE_SECONDS)
            if self._launcher_pid is not None and not lock.is_alive(self._launcher_pid):
                os._exit(1)  # nobody would report on this process, or stop it
            with self._lock:
                self._beat = replace(self._beat, alive_time=time.monotonic())
                self._write()

    def _write(self) -> None:
        content = orjson.dumps(asdict(self._beat))
        os.pwrite(self._file, content.ljust(BEAT_BYTES), 0)


def read_beats(folder: Path) -> list[Beat]:
    """The last beat of every process that has begun."""
    beats = []
    for path in sorted(folder.glob("rank-*.beat")):
        try:
            beats.append(Beat(**orjson.loads(path.read_bytes())))
        except orjson.JSONDecodeError:
            continue  # caught in the middle of a write; the next look will do
    return beats
