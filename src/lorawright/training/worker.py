"""job.json → one rank of a run in several processes; a launcher starts it, not people.

    python -m lorawright.training.worker RUN/launch/job.json     with torchrun's environment

Ours, torchrun and `accelerate launch` start it alike.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorawright.run.events import Event, Tell


def main(path: str) -> int:
    """Trains as one rank; an error goes to the launcher by torch's error file, and on stderr."""
    from torch.distributed.elastic.multiprocessing.errors import record

    from lorawright.distributed import exit_record

    rank = int(os.environ["RANK"])
    train = record(_train, error_handler=exit_record.ErrorFile(rank))
    try:
        train(path, rank)
    except Exception as error:  # the outermost edge of this process
        traceback.print_exc()
        sys.stderr.write(f"rank {rank}: {exit_record.describe(rank, error).what}\n")
        return 1
    return 0


def _train(path: str, rank: int) -> None:
    from lorawright.distributed import heartbeat, launch_files
    from lorawright.distributed.signals import quiet
    from lorawright.plan import run_plan

    plan = run_plan.load(Path(path))
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:  # not started by `accelerate launch`
        os.environ.update(launch_files.environment(plan.config, Path(path).parent))
    launcher = os.environ.get(heartbeat.LAUNCHER)
    folder = None if launcher is None else Path(os.environ[heartbeat.FOLDER])
    beat = None if folder is None else heartbeat.Heartbeat(folder, rank, int(launcher or 0))
    faulthandler.register(signal.SIGUSR1)  # the launcher asks where a process hangs
    quiet()
    from lorawright.training import process

    stopped_by = process.train_rank(plan, _tell(rank, folder), beat)
    if beat is not None:
        beat.end(stopped_by)


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


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # collectives that will never end would hold an ordinary exit up
