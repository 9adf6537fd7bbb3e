"""The launcher: names the process that died or hangs, passes signals on, leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lorawright.distributed import control, supervise
from lorawright.distributed.control import Beat
from lorawright.distributed.signals import Stop
from lorawright.distributed.supervise import Watched
from lorawright.errors import DataError, TrainError
from lorawright.run import lock
from lorawright.run.events import Event, Noted

# A process that starts two "ranks", as accelerate does; each runs the code of its number.
STARTER = """
import subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-c", sys.argv[1] + code]) for code in sys.argv[2:]]
codes = [rank.wait() for rank in ranks]
sys.exit(any(codes))
"""
RANK = """
import os, signal, sys, time
from pathlib import Path
from lorawright.distributed import control
from lorawright.distributed.control import End
from lorawright.run import event_file
from lorawright.run.events import Noted
folder = Path({folder!r})
def begin(rank):
    return control.Pulse(folder, rank, {launcher})
def end(rank, **facts):
    control.write_end(folder, End(rank, time.monotonic(), **facts))
"""
TRAINS = "begin({0})('step 1: forward'); end({0}, stopped_by=15)"
WAITS = "beat = begin({0}); beat('step 1: forward'); beat('step 1: backward'); time.sleep(60)"


def run(
    folder: Path, *codes: str, timeout_seconds: float = 30, stop: Stop | None = None
) -> tuple[list[control.End], list[Event]]:
    shown: list[Event] = []
    prefix = RANK.format(folder=str(folder), launcher=os.getpid())
    command = [sys.executable, "-c", STARTER, prefix, *codes]
    watched = Watched(
        folder, folder / "log", timeout_seconds, num_threads=1, several_machines=False
    )
    return supervise.run(command, watched, stop or Stop(), shown.append), shown


def alive(folder: Path) -> list[int]:
    """Processes that are still there; a killed one may take a moment to be gone."""
    for _ in range(100):
        left = [beat.pid for beat in control.read_beats(folder) if lock.is_alive(beat.pid)]
        if not left:
            break
        time.sleep(0.1)
    return left


def test_ends_and_events_come_through(tmp_path: Path) -> None:
    sends = "event_file.sender(folder)(Noted('hello')); " + TRAINS.format(0)
    ends, shown = run(tmp_path, sends, TRAINS.format(1))
    assert [(end.rank, end.stopped_by) for end in ends] == [(0, 15), (1, 15)]
    assert shown == [Noted("hello")]


def test_a_killed_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one, which would wait forever, is ended."""
    monkeypatch.setattr(supervise, "GRACE_SECONDS", 1.0)
    dies = "begin(1)('step 1: forward'); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(TrainError, match=r"process 1 \(pid \d+\) is gone without a word, while "):
        run(tmp_path, WAITS.format(0), dies)
    assert alive(tmp_path) == []


def test_the_cause_is_told_not_its_consequence(tmp_path: Path) -> None:
    """Rank 0 notices first that rank 1 is gone; rank 1 has said why."""
    lost = (
        "begin(0); end(0, error=dict(kind='TrainError', what='gone', where='', hint=''), lost=True)"
    )
    failed = (
        "begin(1); time.sleep(0.5); "
        "end(1, error=dict(kind='DataError', what='bad row', where='a.jsonl:3', hint='mend it'))"
    )
    with pytest.raises(DataError, match=r"a\.jsonl:3: bad row") as caught:
        run(tmp_path, lost, failed)
    assert caught.value.hint == "mend it"


def test_a_hanging_process_is_named(tmp_path: Path) -> None:
    """Rank 1 never comes to where rank 0 waits for it."""
    hangs = "begin(1)('step 1: forward'); time.sleep(60)"
    started = time.monotonic()
    with pytest.raises(TrainError, match="process 1 has not moved for 1 s, while step 1: forward"):
        run(tmp_path, WAITS.format(0), hangs, timeout_seconds=1)
    assert time.monotonic() - started < 30 and alive(tmp_path) == []


def test_the_silent_one_is_blamed_first() -> None:
    """A stopped process gives no sign of life; that its count is as high does not matter."""
    now = 1000.0
    lively = Beat(0, 1, "step 3: backward", 7, now - 70, now - 1)
    silent = Beat(1, 2, "step 3: backward", 7, now - 70, now - 70)
    assert supervise.standing_still([lively, silent], 60, now) == [silent]
    assert supervise.standing_still([lively], 60, now) == [lively]
    assert supervise.standing_still([lively, silent], 80, now) == []
    assert supervise.standing_still([], 60, now) == []


SUPERVISOR = """
import sys
from pathlib import Path
from lorawright.distributed import supervise
from lorawright.distributed.signals import Stop
supervise.ASLEEP_SECONDS = 1.0
folder = Path(sys.argv[1])
watched = supervise.Watched(folder, folder / "log", 2.0, num_threads=1, several_machines=False)
supervise.run(sys.argv[2:], watched, Stop(), lambda event: None)
"""


def test_a_group_that_was_stopped_and_goes_on_does_not_hang(tmp_path: Path) -> None:
    """SIGSTOP for longer than the timeout, as a laptop's lid or a frozen container; then SIGCONT.

    The launcher looks first, before the others have had time to move.
    """
    prefix = RANK.format(folder=str(tmp_path), launcher=None)
    moves = "beat = begin({0})\nfor n in range(40): beat(f'step {{n}}'); time.sleep(0.1)\nend({0})"
    codes = [prefix + moves.format(rank) for rank in (0, 1)]
    starter = [sys.executable, "-c", STARTER, "", *codes]
    launcher = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path), *starter])
    while len(control.read_beats(tmp_path)) < 2:
        time.sleep(0.05)
    pids = [launcher.pid, *(beat.pid for beat in control.read_beats(tmp_path))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pids[0], signal.SIGCONT)
    time.sleep(0.5)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    assert launcher.wait(30) == 0
    assert sorted(control.read_ends(tmp_path)) == [0, 1]


def test_the_clock_of_the_day_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set forward by a day while processes run: nobody hangs, nobody is silent."""
    pulse = control.Pulse(tmp_path, 0, None)
    monkeypatch.setattr(time, "time", lambda: 86_400.0 * 30_000)
    pulse("step 1: forward")
    (beat,) = control.read_beats(tmp_path)
    assert abs(beat.progress_time - time.monotonic()) < 5
    assert supervise._Watch().standing_still([beat], 60) == []


def test_a_signal_is_passed_on_once(tmp_path: Path) -> None:
    listens = (
        "got = []; signal.signal(signal.SIGTERM, lambda *_: got.append(1)); begin({0})('step 1')\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.5); end({0}, stopped_by=15 if len(got) == 1 else 0)"
    )
    stop = Stop()

    def ask() -> None:
        while len(control.read_beats(tmp_path)) < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        stop.number = 15

    threading.Thread(target=ask).start()
    ends, _ = run(tmp_path, listens.format(0), listens.format(1), stop=stop)
    assert [end.stopped_by for end in ends] == [15, 15]


def test_processes_that_never_begin_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no process has begun"):
        run(tmp_path, "sys.exit(3)")


def test_a_process_ends_with_its_launcher(tmp_path: Path) -> None:
    """The launcher is killed; nobody is left to report to."""
    prefix = RANK.format(folder=str(tmp_path), launcher=os.getpid()).replace(
        str(os.getpid()), "os.getppid()"
    )
    body = prefix + "begin(0)('step 1'); time.sleep(60)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {body!r}])\n"
    wait = "from lorawright.distributed import control; from pathlib import Path\n"
    wait += f"while not control.read_beats(Path({str(tmp_path)!r})): time.sleep(0.01)"
    subprocess.run([sys.executable, "-c", code + wait], check=True)
    deadline = time.monotonic() + 10
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(tmp_path) == []
