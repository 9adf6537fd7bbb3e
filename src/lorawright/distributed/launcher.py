"""Starts a settled run in several processes and stays with them until they have ended."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorawright.distributed import launch_files, supervise
from lorawright.distributed.signals import Stop
from lorawright.errors import RunFolderError
from lorawright.plan.job import Job
from lorawright.run import checkpoint
from lorawright.run.folder import RunFolder

LOG = "output.log"


def write_files(job: Job, folder: RunFolder) -> Path:
    """Everything that the processes of this machine read; returns its folder."""
    config = job.resolved.config
    place = launch_files.launch_folder(folder.path, config.distributed)
    if config.distributed.machine_rank == 0:
        folder.begin()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot be written: {error.strerror}",
            where=str(folder.path),
            hint="choose another `training.output`",
        ) from None
    for path, text in launch_files.files(config, job.resolved.hardware.device, place).items():
        checkpoint.write_atomically(path, text.encode())
    job.write(place / launch_files.JOB)
    return place


def run(
    job: Job, folder: RunFolder, stop: Stop, show: Callable[[dict[str, Any]], None]
) -> tuple[float, int | None]:
    """Trains in the processes of this machine.

    Args:
        job: Settled; control folder and launcher are filled in here.
        folder: The run's.
        stop: Whether we were asked to stop.
        show: Called with every event of rank 0.

    Returns:
        Seconds of training, and the signal that ended it early.
    """
    settings = job.resolved.config.distributed
    control = Path(tempfile.mkdtemp(prefix="lorawright-control-"))
    try:
        place = write_files(replace(job, control=control, launcher_pid=os.getpid()), folder)
        log = place / LOG
        log.unlink(missing_ok=True)
        alone = settings.num_machines == 1
        command = launch_files.runnable(
            launch_files.command(place), supervise.free_port() if alone else None
        )
        num_threads = job.resolved.hardware.num_threads
        watched = supervise.Watched(
            control, log, settings.timeout_seconds, num_threads, several_machines=not alone
        )
        ends = supervise.run(command, watched, stop, show)
    finally:
        shutil.rmtree(control, ignore_errors=True)
    return max(end.seconds for end in ends), ends[0].stopped_by
