"""job.json → one rank of a run in several processes; the launcher starts it, not people.

accelerate launch … --module lorawright.training.worker RUN/launch/job.json
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorawright.distributed.control import End
    from lorawright.run.events import Event, Tell

LOST = (  # how gloo, NCCL and torch's store say that another process is gone
    "gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "Timed out waiting", "TCPStore",
)  # fmt: skip


def main(path: str) -> int:
    """Trains as one rank; says how it ended to the launcher, or on stderr."""
    from lorawright.distributed import control, launch_files
    from lorawright.distributed.signals import quiet
    from lorawright.plan import run_plan

    plan = run_plan.load(Path(path))
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:  # torchrun has started us
        os.environ.update(launch_files.environment(plan.config, Path(path).parent))
    rank, launcher = int(os.environ["RANK"]), os.environ.get(control.LAUNCHER)
    folder = None if launcher is None else Path(os.environ[control.FOLDER])
    pulse = None if folder is None else control.Pulse(folder, rank, int(launcher or 0))
    faulthandler.register(signal.SIGUSR1)  # the launcher asks where a process hangs
    quiet()
    from lorawright.training import process

    try:
        stopped_by = process.train_rank(plan, _tell(rank, folder), pulse)
        end = control.End(rank, time.monotonic(), stopped_by=stopped_by)
    except (Exception, KeyboardInterrupt) as error:  # the outermost edge of this process
        traceback.print_exc()
        end = _end(rank, error)
    if folder is not None:
        control.write_end(folder, end)
    elif end.error is not None:
        sys.stderr.write(f"rank {rank}: {end.error['what']}\n")
    return 0 if end.error is None else 1


def _tell(rank: int, folder: Path | None) -> Tell:
    """Rank 0's events: to the launcher, or as plain lines on stderr."""
    from lorawright.run import event_file, events

    if rank != 0:
        return events.silent
    return print_lines if folder is None else event_file.sender(folder)


def print_lines(event: Event) -> None:
    """What a run without a launcher of ours shows: metrics, evaluations, notes; one line each."""
    from lorawright.run.events import MetricsLogged, Noted

    if isinstance(event, Noted):
        sys.stderr.write(f"{event.text}\n")
    elif isinstance(event, MetricsLogged):
        figures = ", ".join(f"{name} {value:.4g}" for name, value in event.line.items())
        sys.stderr.write(f"{figures}\n")


def _end(rank: int, error: BaseException) -> End:
    from lorawright.distributed.control import End
    from lorawright.errors import LorawrightError

    if isinstance(error, LorawrightError):
        said = {
            "kind": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "hint": error.hint,
        }
        return End(rank, time.monotonic(), error=said)
    line = str(error).strip().split("\n")[0][:300]
    lost = isinstance(error, KeyboardInterrupt) or any(word in str(error) for word in LOST)
    what = f"the other processes are gone: {line}" if lost else f"{type(error).__name__}: {line}"
    said = {"kind": "TrainError", "what": what, "where": f"rank {rank}", "hint": None}
    return End(rank, time.monotonic(), error=said, lost=lost)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # collectives that will never end would hold an ordinary exit up
