"""Starts a settled run in several processes and stays with them until they have ended."""

from __future__ import annotations

from pathlib import Path

from lorawright.distributed import launch_files, ranks
from lorawright.distributed.ranks import Launch
from lorawright.distributed.signals import Stop
from lorawright.errors import RunFolderError
from lorawright.plan import run_plan
from lorawright.plan.run_plan import RunPlan
from lorawright.run.events import Tell
from lorawright.run.files import write_atomically
from lorawright.run.folder import RunFolder


def write_files(plan: RunPlan, folder: RunFolder) -> Path:
    """Everything that the processes of this machine read; returns its folder."""
    config = plan.config
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
    for path, text in launch_files.files(config, plan.settings.hardware.device, place).items():
        write_atomically(path, text.encode())
    run_plan.save(plan, place / launch_files.JOB)
    return place


def run(plan: RunPlan, folder: RunFolder, stop: Stop, tell: Tell) -> int | None:
    """Trains in the processes of this machine.

    Args:
        plan: With its base.
        folder: The run's.
        stop: Whether we were asked to stop.
        tell: Takes every event of rank 0.

    Returns:
        The signal that ended it early, or None.
    """
    settings = plan.config.distributed
    assert isinstance(settings.num_processes, int)
    place = write_files(plan, folder)
    address = f"{settings.main_address}:{settings.main_port}"
    launch = Launch(
        arguments=("-m", launch_files.MODULE, str(place / launch_files.JOB)),
        logs=place,
        num_ranks=settings.num_processes // settings.num_machines,
        num_threads=plan.settings.hardware.num_threads,
        timeout_seconds=settings.timeout_seconds,
        num_machines=settings.num_machines,
        machine_rank=settings.machine_rank,
        **({} if settings.num_machines == 1 else {"address": address}),
    )
    return ranks.run(launch, stop, tell)
