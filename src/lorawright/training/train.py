"""One run: config → run plan → trained adapter → run folder.

result = train.run(load("config.yaml").config)
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorawright.config.schema import Config
from lorawright.distributed import launch_files, launcher
from lorawright.distributed.signals import stop_on_signals
from lorawright.model import lora
from lorawright.plan import run_plan, workload
from lorawright.plan.run_plan import RunPlan
from lorawright.run.events import StopRequested, Tell, silent
from lorawright.run.folder import RunFolder
from lorawright.run.outcome import Outcome, outcome
from lorawright.training import artifacts, claim, process
from lorawright.training.claim import Start
from lorawright.training.process import Process

__all__ = ["Result", "Start", "describe", "make_plan", "prepare_only", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came out.

    Attributes:
        folder: Of the run: adapter, report, metrics, checkpoints.
        num_steps: Of the whole plan.
        first_loss: Of the first logged step, in nats a trained token.
        last_loss: Of the last one.
        eval_loss: Of the last evaluation, or None.
        seconds: Of all sittings.
        stopped_by: The signal that ended the run early, or None; it can then be resumed.
        outcome: The figures that are told.
    """

    folder: RunFolder
    num_steps: int
    first_loss: float
    last_loss: float
    eval_loss: float | None
    seconds: float
    stopped_by: signal.Signals | None
    outcome: Outcome

    def __fspath__(self) -> str:
        """The run folder's path: a result is taken wherever a run is."""
        return str(self.folder.path)


def run(
    config: Config,
    *,
    start: Start = Start.NEW,
    tell: Tell = silent,
    source: Path | None = None,
    command: Sequence[str] | None = None,
) -> Result:
    """Fine-tunes once, in this process or in several that are started here.

    Args:
        config: As loaded; `auto` is settled here.
        start: Begin, begin anew, or go on from the newest complete checkpoint.
        tell: Takes every event of the run, see `run.events`; a stop is told from another thread.
        source: The config's file: its folder is never taken for an output.
        command: What goes on with the run after a stop; kept in the run folder.

    Raises:
        LorawrightError: With an address and a hint, whatever was wrong.
    """
    folder = RunFolder(Path(config.training.output))
    plan = make_plan(config, start, tell, source, command)
    with (
        stop_on_signals(tell=lambda: tell(StopRequested())) as stop,
        claim.held(folder, config, start),
    ):
        plan = claim.departure(plan, folder, start, tell)
        overwrites = start is Start.OVERWRITE
        if launch_files.is_launched(plan.config):
            if overwrites and claim.leads(config):
                claim.clear(folder, tell)
            ended_by = launcher.run(plan, folder, stop, tell)
        else:
            ended_by = process.train(Process(plan, folder, tell, stop), overwrite=overwrites)
    # a launcher passes Ctrl-C on as SIGTERM
    return _finish(plan, folder, None if ended_by is None else stop.number or ended_by)


def make_plan(
    config: Config,
    start: Start,
    tell: Tell,
    source: Path | None = None,
    command: Sequence[str] | None = None,
) -> RunPlan:
    """Everything that is decided before a process trains, but for where it goes on.

    Nothing is written. The run folder is machine 0's to judge; the others go by what it has found.
    Arguments and errors are those of `run`.
    """
    if claim.leads(config):
        claim.refuse(RunFolder(Path(config.training.output)), config, start, source)
    plan = run_plan.make(claim.with_date(config, start), tell)
    if tell is not silent:  # it measures for 0.2 s
        tell(workload.summary(plan))
    process.sft_args(plan)  # what TRL refuses, before anything is fetched or started
    return replace(plan.with_base(), resume_command=None if command is None else list(command))


def prepare_only(
    config: Config, start: Start, tell: Tell = silent, source: Path | None = None
) -> Path:
    """Plans a run and writes what its processes read, for another launcher to start them.

    Returns:
        The plan's file: `torchrun … --module lorawright.training.worker FILE`.
    """
    plan = make_plan(config, start, tell, source)
    folder = RunFolder(Path(config.training.output))
    with claim.held(folder, config, start):
        plan = claim.departure(plan, folder, start, tell)
        if start is Start.OVERWRITE and claim.leads(config):
            claim.clear(folder, tell)
    return launcher.write_files(plan, folder) / launch_files.JOB


def describe(plan: RunPlan, command: list[str]) -> dict[str, Any]:
    """What `train --dry-run` prints: all settings in everyone's terms; nothing is loaded.

    Args:
        plan: Needs no base.
        command: What trains in one process.
    """
    config = plan.config
    fields = lora.lora_config(config.lora).to_dict()
    place = launch_files.launch_folder(Path(config.training.output), config.distributed)
    files = launch_files.files(config, plan.settings.hardware.device, place)
    launched = launch_files.is_launched(config)
    return {
        "config": config.model_dump(mode="json"),
        "derived": plan.settings.reasons,
        "num_steps": plan.steps.num_steps,
        "sft_config": process.sft_args(plan).to_dict(),
        "lora_config": {
            name: sorted(value) if isinstance(value, set) else value
            for name, value in fields.items()
        },
        "launch": {
            "command": launch_files.command(place) if launched else command,
            "files": {str(path): text for path, text in files.items()},
        },
    }


def _finish(plan: RunPlan, folder: RunFolder, stopped_by: int | None) -> Result:
    """How the run ended, read from its metrics, and its report."""
    lines = list(folder.read_metrics())
    losses = [line["loss"] for line in lines if "loss" in line]
    found = outcome(lines)
    signalled = None if stopped_by is None else signal.Signals(stopped_by)
    if claim.leads(plan.config):
        peak = launch_files.peak_memory_bytes(plan.config)
        artifacts.end(folder, found.seconds, None if signalled is None else signalled.name, peak)
    return Result(
        folder=folder,
        num_steps=plan.steps.num_steps,
        first_loss=losses[0] if losses else float("nan"),
        last_loss=losses[-1] if losses else float("nan"),
        eval_loss=found.eval_last,
        seconds=found.seconds,
        stopped_by=signalled,
        outcome=found,
    )
