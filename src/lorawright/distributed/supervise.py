"""The launcher's side of a run in several processes: starts them, shows what rank 0 sends, watches.

    accelerate launch ─► rank 0, rank 1, …        a beat, events and an end from each
          ▲ started, signalled, ended by us

A process that dies or stands still ends the run with its name, after the others had their say.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from lorawright.distributed import control
from lorawright.distributed.control import Beat, End
from lorawright.distributed.signals import Stop
from lorawright.errors import LorawrightError, TrainError
from lorawright.run import event_file, lock
from lorawright.run.events import Tell

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for the others to notice that one of them is gone
SILENT_SECONDS = 15.0  # without a sign of life: stopped, or stuck inside a library
ASLEEP_SECONDS = 5.0  # between two looks of ours: we were stopped, and so may the processes be


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched, and how patiently.

    Attributes:
        folder: Where processes and launcher talk.
        log: Takes whatever the processes print.
        timeout_seconds: Longest time without any progress.
        num_threads: CPU threads of each process.
        several_machines: Whether a process may wait for one that is not seen from here.
    """

    folder: Path
    log: Path
    timeout_seconds: float
    num_threads: int
    several_machines: bool


def run(command: list[str], watched: Watched, stop: Stop, tell: Tell) -> list[End]:
    """Starts all processes and returns when they have ended.

    Args:
        command: From `launch.runnable`.
        watched: Where and how.
        stop: A signal to us is passed on once; the second one raises KeyboardInterrupt.
        tell: Takes every event of rank 0.

    Raises:
        LorawrightError: What the first process to fail has said, or that one died or hung.
    """
    events = event_file.Events(watched.folder)
    deaths: dict[int, float] = {}
    with open(watched.log, "ab") as log:
        process = _start(command, watched.folder, watched.num_threads, log)
        try:
            failure = _watch(process, watched, stop, deaths, lambda: _tell_all(events, tell))
        finally:
            _end_all(process, watched.folder)
    _tell_all(events, tell)
    ends = control.read_ends(watched.folder)
    failure = failure or _without_a_word(process, ends, watched, deaths)
    cause = _cause(ends, failure)
    if cause is not None:
        raise cause
    return [ends[rank] for rank in sorted(ends)]


def _tell_all(events: event_file.Events, tell: Tell) -> None:
    for event in events:
        tell(event)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(
    command: list[str], folder: Path, num_threads: int, log: BinaryIO
) -> subprocess.Popen[bytes]:
    """In a session of its own: a Ctrl-C on the terminal reaches only us, and we pass it on."""
    environment = os.environ | {
        control.FOLDER: str(folder),
        control.LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": str(num_threads),
        "PET_SIGNALS_TO_HANDLE": "SIGQUIT",  # torchrun would pass SIGTERM on a second time
        "PET_SHUTDOWN_TIMEOUT": str(int(GRACE_SECONDS)),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
        preexec_fn=_ignore_signals,
    )


def _ignore_signals() -> None:
    """For accelerate; the processes it starts listen again once they train."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _watch(
    process: subprocess.Popen[bytes],
    watched: Watched,
    stop: Stop,
    deaths: dict[int, float],
    tell_all: Callable[[], None],
) -> TrainError | None:
    """Until accelerate has ended, or the processes must be ended; then why.

    Args:
        process: accelerate.
        watched: Where and how.
        stop: Whether we were asked to stop.
        deaths: Filled with the time at which a process was seen to be gone.
        tell_all: Called all the time.
    """
    passed_on = False
    watch = _Watch()
    while process.poll() is None:
        watch.look()
        tell_all()
        beats = control.read_beats(watched.folder)
        ends = control.read_ends(watched.folder)
        if stop() and not passed_on:
            passed_on = True
            for beat in beats:
                _signal(beat.pid, signal.SIGTERM)
        for beat in beats:
            if beat.rank not in deaths and not lock.is_alive(beat.pid):
                deaths[beat.rank] = time.monotonic()
        mute = _mute(beats, ends, deaths)
        if (mute or any(end.error for end in ends.values())) and _waited(deaths, ends):
            return _died(mute[0]) if mute else None
        if not beats and time.monotonic() - watch.awake_since > watched.timeout_seconds:
            return _not_begun(process, watched)
        running = [beat for beat in beats if beat.rank not in ends]
        still = watch.standing_still(running, watched.timeout_seconds)
        if still:
            for beat in running:
                _signal(beat.pid, signal.SIGUSR1)  # each writes its stack into the log
            time.sleep(1)
            return _hung(still, running, watched)
        time.sleep(POLL_SECONDS)
    return None


@dataclass
class _Watch:
    """Since when we have been looking without a break.

    A group of processes that is stopped and goes on (SIGSTOP and SIGCONT, a debugger, a frozen
    container) has had no time to move: nobody is blamed for what was before.
    """

    awake_since: float = field(default_factory=time.monotonic)
    last_look: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        now = time.monotonic()
        if now - self.last_look > ASLEEP_SECONDS:
            self.awake_since = now
        self.last_look = now

    def standing_still(self, beats: list[Beat], timeout_seconds: float) -> list[Beat]:
        since = self.awake_since
        seen = [
            replace(
                beat,
                progress_time=max(beat.progress_time, since),
                alive_time=max(beat.alive_time, since),
            )
            for beat in beats
        ]
        return standing_still(seen, timeout_seconds, time.monotonic())


def _mute(beats: list[Beat], ends: dict[int, End], deaths: dict[int, float]) -> list[Beat]:
    """Processes that are gone without a word, the first one first."""
    found = [beat for beat in beats if beat.rank in deaths and beat.rank not in ends]
    return sorted(found, key=lambda beat: deaths[beat.rank])


def _waited(deaths: dict[int, float], ends: dict[int, End]) -> bool:
    times = [*deaths.values(), *(end.time for end in ends.values() if end.error)]
    return bool(times) and time.monotonic() - min(times) > GRACE_SECONDS


def standing_still(beats: list[Beat], timeout_seconds: float, now: float) -> list[Beat]:
    """The processes to blame when nothing has moved for so long; empty while something moves.

    Those without a sign of life first; else those that are behind the others, who wait for them.
    """
    if not beats or now - max(beat.progress_time for beat in beats) <= timeout_seconds:
        return []
    silent = [beat for beat in beats if now - beat.alive_time > SILENT_SECONDS]
    if silent:
        return silent
    least = min(beat.count for beat in beats)
    return [beat for beat in beats if beat.count == least]


def _died(beat: Beat) -> TrainError:
    return TrainError(
        f"process {beat.rank} (pid {beat.pid}) is gone without a word, while {beat.doing}",
        where=f"rank {beat.rank}",
        hint="killed, or out of memory: the system's log may say; go on with `--resume`",
    )


def _hung(still: list[Beat], running: list[Beat], watched: Watched) -> TrainError:
    names = ", ".join(str(beat.rank) for beat in still)
    seconds = f"{watched.timeout_seconds:.0f} s"
    if len(still) == len(running):
        elsewhere = ", or wait for another machine" if watched.several_machines else ""
        what = f"no process has made progress for {seconds}; all stand at: {still[0].doing}"
        what += elsewhere
    else:
        what = f"process {names} has not moved for {seconds}, while {still[0].doing}"
    return TrainError(
        what,
        where=f"rank {names}",
        hint=f"the stacks are in {watched.log}; go on with `--resume`; a slow step needs a "
        "higher `distributed.timeout_seconds`",
    )


def _cause(ends: dict[int, End], failure: TrainError | None) -> LorawrightError | None:
    """The first error that is no consequence of another one."""
    errors = sorted((e for e in ends.values() if e.error), key=lambda e: (e.lost, e.time))
    if not errors or (failure is not None and errors[0].lost):
        return failure
    said = errors[0].error
    assert said is not None
    kinds = {kind.__name__: kind for kind in _kinds(LorawrightError)}
    kind = kinds.get(str(said["kind"]), TrainError)
    return kind(str(said["what"]), where=said["where"], hint=said["hint"])


def _kinds(kind: type[LorawrightError]) -> list[type[LorawrightError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


def _without_a_word(
    process: subprocess.Popen[bytes],
    ends: dict[int, End],
    watched: Watched,
    deaths: dict[int, float],
) -> TrainError | None:
    """accelerate has ended, and not every process has said how."""
    beats = control.read_beats(watched.folder)
    for beat in beats:
        deaths.setdefault(beat.rank, time.monotonic())
    mute = _mute(beats, ends, deaths)
    if mute:
        return _died(mute[0])
    return None if beats else _not_begun(process, watched)


def _not_begun(process: subprocess.Popen[bytes], watched: Watched) -> TrainError:
    state = "waits" if process.poll() is None else f"ended with {process.returncode}"
    return TrainError(
        f"accelerate {state}, and no process has begun",
        where="distributed",
        hint=f"its words are in {watched.log}",
    )


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # ended between the look and the call
        os.kill(pid, number)


def _end_all(process: subprocess.Popen[bytes], folder: Path) -> None:
    """No process outlives the run."""
    ends = control.read_ends(folder)
    for beat in control.read_beats(folder):
        if process.poll() is None or beat.rank not in ends:
            _signal(beat.pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
    process.wait()
