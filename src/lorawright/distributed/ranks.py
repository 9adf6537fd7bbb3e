"""A command → its ranks on this machine: started by torch's elastic agent, watched, ended by name.

    this process ─┬─ main thread   shows rank 0's events, passes signals on, looks for hanging ranks
                  └─ agent         torch's: starts ranks, sees the first to fail, ends the others
    rank 0, 1, …   each writes heartbeats, its output into a log, and its error into a file

A rank that dies or stands still ends the run with its name, after the others had their say.
Source: torch.distributed.launcher.api (`elastic_launch`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lorawright.distributed import exit_record, heartbeat
from lorawright.distributed.hangs import Watch, standing_still_error
from lorawright.distributed.heartbeat import Beat
from lorawright.distributed.signals import Stop
from lorawright.errors import LorawrightError, TrainError
from lorawright.run import event_file, lock
from lorawright.run.events import Tell

POLL_SECONDS = 0.1
START_SECONDS = 300.0  # until the first heartbeat: imports, on a busy machine
GRACE_SECONDS = 10  # for the others to notice that one of them is gone
AGENT_LOG = "launcher.log"


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started, and where its ranks meet.

    Attributes:
        arguments: Of this Python, for every rank.
        logs: Folder that takes what the ranks print.
        num_ranks: On this machine.
        num_threads: CPU threads of each rank.
        timeout_seconds: Longest time without any progress.
        num_machines: That train together.
        machine_rank: This one's number.
        address: Of machine 0, with its port; on one machine a free port of its own.
    """

    arguments: tuple[str, ...]
    logs: Path
    num_ranks: int
    num_threads: int
    timeout_seconds: float
    num_machines: int = 1
    machine_rank: int = 0
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(launch: Launch, stop: Stop, tell: Tell) -> int | None:
    """Starts all ranks of this machine and returns when they have ended.

    Args:
        launch: What, and where.
        stop: A signal to us is passed on once; the second one raises KeyboardInterrupt.
        tell: Takes every event of rank 0.

    Returns:
        The signal that ended the run before its last step, or None.

    Raises:
        LorawrightError: What the first rank to fail has said, or that one was killed or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="lorawright-control-") as name:
        control = Path(name)
        ranks = _Ranks(launch, control, event_file.Events(control), tell)
        with _environment(launch, control), _agent_log(launch.logs), ThreadPoolExecutor(1) as pool:
            ended = pool.submit(elastic_launch(_config(launch, control), sys.executable),
                                *launch.arguments)  # fmt: skip
            try:
                hangs = ranks.follow(ended, stop)
            finally:
                ranks.kill_all()
            failures = _failures(ended)
        ranks.tell_all()
        cause = hangs or ranks.cause(failures, stop)
        if cause is not None:
            raise cause
        # ranks that failed without a cause were ended by the signal before they could listen
        return stop.number if failures else ranks.stopped_by()


class _RankLogs(LogsSpecs):
    """Where each rank's output and error go."""

    def __init__(self, folder: Path, control: Path) -> None:
        super().__init__(str(folder))
        self._folder, self._control = folder, control

    @property
    def root_log_dir(self) -> str:
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        ranks = {local: int(variables["RANK"]) for local, variables in envs.items()}
        for local, rank in ranks.items():
            envs[local][exit_record.VARIABLE] = str(_error_file(self._control, rank))
        return LogsDest(
            stdouts={
                local: str(self._folder / f"rank-{rank}.out") for local, rank in ranks.items()
            },
            stderrs={local: str(log_of(self._folder, rank)) for local, rank in ranks.items()},
            tee_stdouts=dict.fromkeys(ranks, ""),
            tee_stderrs=dict.fromkeys(ranks, ""),
            error_files={local: str(_error_file(self._control, r)) for local, r in ranks.items()},
        )


def log_of(folder: Path, rank: int | str) -> Path:
    """What a rank has printed on stderr, stacks included."""
    return folder / f"rank-{rank}.log"


def _error_file(control: Path, rank: int) -> Path:
    return control / f"rank-{rank}.error.json"


def _config(launch: Launch, control: Path) -> LaunchConfig:
    """One attempt, ended within `GRACE_SECONDS` of the first failure."""
    return LaunchConfig(
        min_nodes=launch.num_machines,
        max_nodes=launch.num_machines,
        nproc_per_node=launch.num_ranks,
        run_id="lorawright",
        rdzv_backend="static",
        rdzv_endpoint=launch.address,
        rdzv_configs={"rank": launch.machine_rank, "timeout": max(60, launch.timeout_seconds)},
        max_restarts=0,
        monitor_interval=POLL_SECONDS,
        logs_specs=_RankLogs(launch.logs, control),
        shutdown_timeout=GRACE_SECONDS,
    )


@contextmanager
def _environment(launch: Launch, control: Path) -> Iterator[None]:
    """What the ranks inherit; ours is put back, what torch has written included."""
    before = dict(os.environ)
    os.environ.update(
        {
            heartbeat.FOLDER: str(control),
            heartbeat.LAUNCHER: str(os.getpid()),
            "OMP_NUM_THREADS": str(launch.num_threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _agent_log(folder: Path) -> Iterator[None]:
    """The agent's own messages: into a file, not onto the terminal."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler, propagates = logging.FileHandler(folder / AGENT_LOG, "w"), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        handler.close()


def _failures(ended: Future[Any]) -> dict[int, ProcessFailure]:
    """Ranks that failed, in the order in which the agent has seen them.

    Raises:
        TrainError: The agent could not start them: the machines have not met, a port is taken.
    """
    error = ended.exception()
    if error is None:
        return {}
    if isinstance(error, ChildFailedError):
        return dict(error.failures)
    raise TrainError(
        f"the processes could not be started: {type(error).__name__}: {str(error)[:300]}",
        where="distributed",
        hint="see `distributed.main_address` and `distributed.main_port`",
    ) from error


class _Ranks:
    """The ranks of a launch, from the launching process."""

    def __init__(
        self, launch: Launch, control: Path, events: event_file.Events, tell: Tell
    ) -> None:
        self._launch, self._control = launch, control
        self._events, self._tell = events, tell
        self._deaths: dict[int, float] = {}
        self._broken_since: float | None = None

    def follow(self, ended: Future[Any], stop: Stop) -> TrainError | None:
        """Until all have ended, or hang; then which."""
        signalled: set[int] = set()
        watch = Watch()
        while not _waited(ended):
            watch.look()
            self.tell_all()
            beats = heartbeat.read_beats(self._control)
            for beat in beats:
                if beat.rank not in self._deaths and not lock.is_alive(beat.pid):
                    self._deaths[beat.rank] = time.monotonic()
                    if not beat.has_ended:
                        self._broken_since = self._broken_since or time.monotonic()
                if stop() and beat.pid not in signalled:
                    signalled.add(beat.pid)
                    _signal(beat.pid, signal.SIGTERM)
            broken = self._broken_since
            if broken is not None and time.monotonic() > broken + GRACE_SECONDS:
                self.kill_all()  # the agent gives them half a minute
            timeout = self._launch.timeout_seconds
            if not beats and time.monotonic() - watch.awake_since > max(timeout, START_SECONDS):
                return self._not_begun("wait")
            running = [b for b in beats if b.rank not in self._deaths and not b.has_ended]
            still = watch.standing_still(running, timeout)
            if still and broken is None:
                for beat in running:
                    _signal(beat.pid, signal.SIGUSR1)  # each writes its stack into its log
                time.sleep(1)
                several = self._launch.num_machines > 1
                log = log_of(self._launch.logs, "N" if len(still) > 1 else still[0].rank)
                return standing_still_error(still, running, timeout, log, several_machines=several)
        return None

    def tell_all(self) -> None:
        for event in self._events:
            self._tell(event)

    def stopped_by(self) -> int | None:
        """The signal that ended the run early, as its ranks have noted it."""
        beats = heartbeat.read_beats(self._control)
        return next((beat.stopped_by for beat in beats if beat.stopped_by is not None), None)

    def kill_all(self) -> None:
        """No rank outlives the run."""
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.environ().get(heartbeat.FOLDER) == str(self._control):
                    child.kill()

    def cause(self, failures: dict[int, ProcessFailure], stop: Stop) -> LorawrightError | None:
        """The first error that is no consequence of another one."""
        found = {rank: exit_record.read(_error_file(self._control, rank)) for rank in failures}
        records = {rank: record for rank, record in found.items() if record is not None}
        errors = sorted(records.values(), key=lambda record: (record.lost, record.time))
        if errors and not errors[0].lost:
            return errors[0].error()
        if stop() and all(failure.exitcode == -signal.SIGTERM for failure in failures.values()):
            return None  # asked to stop before they could listen
        beats = {beat.rank: beat for beat in heartbeat.read_beats(self._control)}
        killed = self._killed(failures, records)
        if killed is not None and killed in beats:
            return _killed_error(beats[killed], failures[killed])
        if errors:
            return errors[0].error()
        if not failures:
            return None
        rank, failure = next(iter(failures.items()))
        if not beats:
            return self._not_begun(f"ended with {failure.exitcode}")
        return TrainError(
            f"process {rank} (pid {failure.pid}) ended with {failure.exitcode}",
            where=f"rank {rank}",
            hint=f"its words are in {log_of(self._launch.logs, rank)}",
        )

    def _killed(
        self, failures: dict[int, ProcessFailure], records: dict[int, exit_record.ExitRecord]
    ) -> int | None:
        """The first rank that a signal has ended, other than the agent's after a failure."""
        times = [*self._deaths.values(), *(record.time for record in records.values())]
        first = min(times, default=time.monotonic())
        by_signal = [
            rank
            for rank, failure in failures.items()
            if failure.exitcode < 0
            and failure.exitcode != -signal.SIGTERM
            and self._deaths.get(rank, first) < first + GRACE_SECONDS - 1
        ]
        return min(by_signal, key=lambda rank: self._deaths.get(rank, first), default=None)

    def _not_begun(self, state: str) -> TrainError:
        return TrainError(
            f"the processes {state}, and none has begun",
            where="distributed",
            hint=f"their words are in {log_of(self._launch.logs, 'N')}",
        )


def _waited(ended: Future[Any]) -> bool:
    """Whether the agent has ended, after a moment."""
    try:
        ended.exception(POLL_SECONDS)
    except NotYet:
        return False
    return True


def _killed_error(beat: Beat, failure: ProcessFailure) -> TrainError:
    return TrainError(
        f"process {beat.rank} (pid {beat.pid}) was killed by {_name(-failure.exitcode)}, while "
        f"{beat.doing}",
        where=f"rank {beat.rank}",
        hint="out of memory, or by somebody: the system's log may say; go on with `--resume`",
    )


def _name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # ended between the look and the call
        os.kill(pid, number)
