"""The launcher: names the process that died or hangs, passes signals on, leaves nobody behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lorawright.distributed import hangs, heartbeat, ranks
from lorawright.distributed.heartbeat import Beat, Heartbeat
from lorawright.distributed.ranks import Launch
from lorawright.distributed.signals import Stop
from lorawright.errors import DataError, TrainError
from lorawright.run import lock
from lorawright.run.events import Event, Noted

# Each rank runs the code of its number; torch's agent has told it which, and where to write.
RANK = """
import os, signal, sys, time
from pathlib import Path
from torch.distributed.elastic.multiprocessing.errors import record
from lorawright.distributed import exit_record, heartbeat
from lorawright.errors import DataError
from lorawright.run import event_file
from lorawright.run.events import Noted
rank, folder = int(os.environ["RANK"]), Path(os.environ["LORAWRIGHT_CONTROL"])
def begin():
    signal.signal(signal.SIGTERM, lambda *_: None)  # ranks that train are patient
    return heartbeat.Heartbeat(folder, rank, int(os.environ["LORAWRIGHT_LAUNCHER_PID"]))
def main():
    exec(sys.argv[1 + rank], globals())
record(main, error_handler=exit_record.ErrorFile(rank))()
"""
TRAINS = "beat = begin(); beat('step 1: forward'); beat.end()"
WAITS = (
    "import faulthandler; faulthandler.register(signal.SIGUSR1); beat = begin(); "
    "beat('step 1: forward'); beat('step 1: backward'); time.sleep(60)"
)


def launch(folder: Path, *codes: str, timeout_seconds: float = 30) -> Launch:
    return Launch(
        arguments=("-c", RANK, *codes),
        logs=folder,
        num_ranks=len(codes),
        num_threads=1,
        timeout_seconds=timeout_seconds,
    )


def run(
    folder: Path, *codes: str, timeout_seconds: float = 30, stop: Stop | None = None
) -> list[Event]:
    shown: list[Event] = []
    started = launch(folder, *codes, timeout_seconds=timeout_seconds)
    ranks.run(started, stop or Stop(), shown.append)
    return shown


@pytest.fixture(autouse=True)
def _nobody_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """After every launch all ranks are gone, and the environment is as it was."""
    before, found = dict(os.environ), []
    start = heartbeat.read_beats

    def read(folder: Path) -> list[Beat]:
        beats = start(folder)
        found.extend(beat.pid for beat in beats if beat.pid != os.getpid())
        return beats

    monkeypatch.setattr(heartbeat, "read_beats", read)
    yield
    left = {pid for pid in found if lock.is_alive(pid)}
    assert not left
    changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
    assert changed <= {"PYTEST_CURRENT_TEST", "LORAWRIGHT_CACHE"}


def test_ends_and_events_come_through(tmp_path: Path) -> None:
    sends = "event_file.sender(folder)(Noted('hello')); " + TRAINS
    assert run(tmp_path, sends, TRAINS) == [Noted("hello")]


def test_a_stop_is_what_ranks_say_of_it(tmp_path: Path) -> None:
    """A signal that comes when all steps are done has stopped nothing."""
    late = Stop(number=15)
    ready = "beat = begin(); time.sleep(0.5); beat.end({})"
    silent = [].append
    assert ranks.run(launch(tmp_path, ready.format(15), ready.format(15)), late, silent) == 15
    assert ranks.run(launch(tmp_path, ready.format(""), ready.format("")), late, silent) is None


def test_what_ranks_print_is_in_their_logs(tmp_path: Path) -> None:
    says = TRAINS + "; print('out'); sys.stderr.write('err')"
    run(tmp_path, TRAINS, says)
    assert (tmp_path / "rank-1.out").read_text() == "out\n"
    assert (tmp_path / "rank-1.log").read_text() == "err"


def test_a_killed_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one, which would wait forever, is ended."""
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 2)
    dies = "begin()('step 1: forward'); time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
    killed = r"process 1 \(pid \d+\) was killed by SIGKILL, while step 1: forward"
    with pytest.raises(TrainError, match=killed):
        run(tmp_path, WAITS, dies)


def test_the_cause_is_told_not_its_consequence(tmp_path: Path) -> None:
    """Rank 0 notices first that rank 1 is gone; rank 1 says why a moment later."""
    lost = "begin(); raise RuntimeError('[gloo] Connection closed by peer')"
    failed = (
        "begin(); time.sleep(1.5); raise DataError('bad row', where='a.jsonl:3', hint='mend it')"
    )
    with pytest.raises(DataError, match=r"a\.jsonl:3: bad row") as caught:
        run(tmp_path, lost, failed)
    assert caught.value.hint == "mend it"


def test_a_librarys_error_is_one_line_with_its_rank(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="rank 1: ZeroDivisionError: division by zero"):
        run(tmp_path, TRAINS, "begin(); 1 / 0")


def test_a_hanging_process_is_named(tmp_path: Path) -> None:
    """Rank 1 never comes to where rank 0 waits for it; its stack is in its log."""
    hangs = (
        "import faulthandler; faulthandler.register(signal.SIGUSR1); begin()('step 1: forward'); "
        "time.sleep(60)"
    )
    started = time.monotonic()
    with pytest.raises(
        TrainError, match="process 1 has not moved for 2 s, while step 1: forw"
    ) as e:
        run(tmp_path, WAITS, hangs, timeout_seconds=2)
    assert time.monotonic() - started < 40
    assert str(tmp_path / "rank-1.log") in str(e.value.hint)
    assert "most recent call first" in (tmp_path / "rank-1.log").read_text()


def test_the_silent_one_is_blamed_first() -> None:
    """A stopped process gives no sign of life; that its count is as high does not matter."""
    now = 1000.0
    lively = Beat(0, 1, "step 3: backward", 7, now - 70, now - 1)
    silent = Beat(1, 2, "step 3: backward", 7, now - 70, now - 70)
    assert hangs.standing_still([lively, silent], 60, now) == [silent]
    assert hangs.standing_still([lively], 60, now) == [lively]
    assert hangs.standing_still([lively, silent], 80, now) == []
    assert hangs.standing_still([], 60, now) == []


LAUNCHER = """
import sys
from pathlib import Path
from lorawright.distributed import hangs, heartbeat, ranks
from lorawright.distributed.ranks import Launch
from lorawright.distributed.signals import Stop
hangs.ASLEEP_SECONDS = 1.0
folder = Path(sys.argv[1])
before = heartbeat.read_beats
def read(control):
    (folder / "control").write_text(str(control))
    return before(control)
heartbeat.read_beats = read
launch = Launch(("-c", *sys.argv[2:]), folder, 2, 1, 2.0)
ranks.run(launch, Stop(), lambda event: None)
"""


def beats_of(folder: Path) -> list[Beat]:
    """Heartbeats of the ranks of a launcher in another process."""
    place = folder / "control"
    found = place.read_text() if place.is_file() else ""
    return heartbeat.read_beats(Path(found)) if found else []


def test_a_group_that_was_stopped_and_goes_on_does_not_hang(tmp_path: Path) -> None:
    """SIGSTOP for longer than the timeout, as a laptop's lid or a frozen container; then SIGCONT.

    The launcher looks first, before the others have had time to move.
    """
    moves = "beat = begin()\nfor n in range(60): beat(f'step {n}'); time.sleep(0.1)"
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), RANK, moves, moves]
    launcher = subprocess.Popen(command)
    while len(beats_of(tmp_path)) < 2:
        assert launcher.poll() is None
        time.sleep(0.05)
    pids = [launcher.pid, *(beat.pid for beat in beats_of(tmp_path))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pids[0], signal.SIGCONT)
    time.sleep(0.5)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    assert launcher.wait(60) == 0


def test_the_clock_of_the_day_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set forward by a day while processes run: nobody hangs, nobody is silent."""
    pulse = Heartbeat(tmp_path, 0, None)
    monkeypatch.setattr(time, "time", lambda: 86_400.0 * 30_000)
    pulse("step 1: forward")
    beats = heartbeat.read_beats(tmp_path)
    assert abs(beats[0].progress_time - time.monotonic()) < 5
    assert hangs.Watch().standing_still(beats, 60) == []
    monkeypatch.undo()


def test_a_signal_is_passed_on_once(tmp_path: Path) -> None:
    listens = (
        "got = []; begin()('step 1'); signal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "(folder / f'ready-{rank}').touch()\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.5); sys.stderr.write(str(len(got)))"
    )
    stop = Stop()
    seen: list[Path] = []
    before = heartbeat.read_beats

    def read(folder: Path) -> list[Beat]:
        seen.append(folder)
        return before(folder)

    def ask() -> None:
        while not (seen and len(list(seen[0].glob("ready-*"))) == 2):
            time.sleep(0.01)
        stop.number = 15

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat, "read_beats", read)
        threading.Thread(target=ask, daemon=True).start()
        run(tmp_path, listens, listens, stop=stop)
    assert [(tmp_path / f"rank-{rank}.log").read_text() for rank in (0, 1)] == ["1", "1"]


def test_a_signal_before_ranks_listen_ends_the_run(tmp_path: Path) -> None:
    """They are ended by it, and that is no error: somebody asked to stop."""
    stop = Stop(number=15)
    deaf = "heartbeat.Heartbeat(folder, rank, None)('starting'); time.sleep(60)"
    assert ranks.run(launch(tmp_path, deaf, deaf), stop, [].append) == 15


def test_processes_that_never_begin_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="the processes ended with 3, and none has begun"):
        run(tmp_path, "sys.exit(3)", "sys.exit(3)")


def test_processes_that_wait_before_they_begin_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "START_SECONDS", 1.0)
    waits = "time.sleep(60)"
    with pytest.raises(TrainError, match="the processes wait, and none has begun"):
        run(tmp_path, waits, waits, timeout_seconds=1)


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = replace(launch(tmp_path, TRAINS), address=address)
        with pytest.raises(TrainError, match="the processes could not be started") as caught:
            ranks.run(started, Stop(), lambda event: None)
    assert "distributed.main_port" in str(caught.value.hint)


def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """The launcher is killed; nobody is left to report to."""
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), RANK, WAITS, WAITS]
    launcher = subprocess.Popen(command)
    while len(beats_of(tmp_path)) < 2:
        assert launcher.poll() is None
        time.sleep(0.05)
    pids = [beat.pid for beat in beats_of(tmp_path)]
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 20
    while any(map(lock.is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lock.is_alive, pids))
