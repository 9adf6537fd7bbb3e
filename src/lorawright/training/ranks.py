"""What the processes of a run do together besides training: agree, write down, save, be watched."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorawright.config.schema import Config
from lorawright.distributed.control import Pulse
from lorawright.distributed.group import Group
from lorawright.distributed.signals import Stop
from lorawright.errors import TrainError
from lorawright.plan.job import Job
from lorawright.run import checkpoint, resume
from lorawright.run.events import Screen
from lorawright.run.folder import RunFolder
from lorawright.run.records import Watcher
from lorawright.training.trainer import PlannedTrainer

VISIBLE_SECONDS = 30.0  # for a file of rank 0 to be seen by another machine


def agree(job: Job, group: Group) -> Job:
    """The job as rank 0 has it; what makes the run must be equal on all machines.

    Args:
        job: This machine's.
        group: All processes.

    Raises:
        TrainError: Machines have other data, another model, or do not see one run folder.
    """
    mine = {"identity": job.identity, "config": job.resolved.config.model_dump(mode="json")}
    jobs = group.gather({**mine, "resume_from": job.resume_from})
    for rank, other in enumerate(jobs):
        differing = resume.differences(jobs[0]["identity"], other["identity"])
        if differing:
            raise TrainError(
                f"its run is another one than rank 0's: {'; '.join(differing)}",
                where=f"rank {rank}",
                hint="start every machine with the same config, data and model",
            )
    _see_the_same_folder(Path(job.resolved.config.training.output), group)
    config = Config.model_validate(jobs[0]["config"])
    resolved = replace(job.resolved, config=config)
    return replace(job, resolved=resolved, resume_from=jobs[0]["resume_from"])


def _see_the_same_folder(run: Path, group: Group) -> None:
    """Checkpoints are written by all processes into one folder."""
    path = run / "launch" / "meeting"
    if group.is_main:
        checkpoint.write_atomically(path, str(time.time()).encode())
    written = group.gather(path.read_bytes() if group.is_main else b"")[0]
    deadline = time.monotonic() + VISIBLE_SECONDS
    seen = False
    while not seen and time.monotonic() < deadline:
        seen = path.is_file() and path.read_bytes() == written
        if not seen:
            time.sleep(0.5)
    blind = [rank for rank, sees in enumerate(group.gather(seen)) if not sees]
    if blind:
        raise TrainError(
            f"does not see what rank 0 writes into {run}",
            where=f"rank {blind[0]}",
            hint="`training.output` must lie on storage that all machines share",
        )


def watcher(job: Job, folder: RunFolder, screen: Screen, stop: Stop, group: Group) -> Watcher:
    """Metrics and screen are rank 0's; stopping and saving are everyone's."""

    def on_log(line: dict[str, float]) -> None:
        if group.is_main and ("loss" in line or "eval_loss" in line):
            folder.append_metrics(line)
            screen.line(line)

    def on_saved(path: Path) -> None:
        group.barrier()  # every process has written its part
        if group.is_main:
            checkpoint.seal(path, {"step": checkpoint.step_of(path), "belongs_to": job.identity})
            checkpoint.keep_newest(
                folder.checkpoints, job.resolved.config.training.keep_checkpoints
            )
        group.barrier()  # none begins the next step before it counts

    return Watcher(
        on_log=on_log,
        on_step=screen.step,
        on_saved=on_saved,
        on_evaluating=screen.evaluating,
        should_stop=lambda: group.highest(stop.number or 0) > 0,
    )


def follow(trainer: PlannedTrainer, pulse: Pulse) -> None:
    """Notes where this process is, so that one that stands still can be named."""

    def forward(*_: Any) -> None:
        pulse(f"step {trainer.state.global_step + 1}: forward")

    def backward(*_: Any) -> None:
        pulse(f"step {trainer.state.global_step + 1}: backward")

    trainer.model.register_forward_pre_hook(forward)
    trainer.model.register_forward_hook(backward)
