"""Each machine's run plan → rank 0's, after a proof that all plan the same run in one folder."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from lorawright.config.schema import Config
from lorawright.distributed.group import Group
from lorawright.errors import TrainError
from lorawright.plan.run_plan import RunPlan
from lorawright.run import resume
from lorawright.run.files import write_atomically

VISIBLE_SECONDS = 30.0  # for a file of rank 0 to be seen by another machine


def agree(plan: RunPlan, group: Group) -> RunPlan:
    """The plan as rank 0 has it; what makes the run must be equal on all machines.

    Args:
        plan: This machine's.
        group: All processes.

    Raises:
        TrainError: Machines have other data, another model, or do not see one run folder.
    """
    mine = {"identity": plan.identity, "config": plan.config.model_dump(mode="json")}
    plans = group.gather({**mine, "resume_from": plan.resume_from})
    for rank, other in enumerate(plans):
        differing = resume.differences(plans[0]["identity"], other["identity"])
        if differing:
            raise TrainError(
                f"its run is another one than rank 0's: {'; '.join(differing)}",
                where=f"rank {rank}",
                hint="start every machine with the same config, data and model",
            )
    _see_the_same_folder(Path(plan.config.training.output), group)
    config = Config.model_validate(plans[0]["config"])
    settings = replace(plan.settings, config=config)
    return replace(plan, settings=settings, resume_from=plans[0]["resume_from"])


def _see_the_same_folder(run: Path, group: Group) -> None:
    """Checkpoints are written by all processes into one folder."""
    path = run / "launch" / "meeting"
    if group.is_main:
        write_atomically(path, str(time.time()).encode())
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
