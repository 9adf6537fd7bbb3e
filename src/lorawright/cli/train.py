"""`lorawright train CONFIG`: the run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorawright.cli.options import (
    ConfigFile,
    Json,
    NumProcesses,
    Overrides,
    StrategyName,
    with_processes,
)
from lorawright.i18n import units

if TYPE_CHECKING:
    from lorawright.config import Config
    from lorawright.training.train import Result, Start


def train(
    config: ConfigFile,
    num_processes: NumProcesses = None,
    strategy: StrategyName = None,
    set_: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")
    ] = False,
    resume_anyway: Annotated[
        bool, typer.Option("--resume-anyway", help="The same, although settings differ.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run that is there and begin anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, and stop.")
    ] = False,
    prepare_only: Annotated[
        bool,
        typer.Option("--prepare-only", help="Write what torchrun's processes read, and stop."),
    ] = False,
    json: Json = False,
) -> None:
    """Train; `--resume` goes on from the newest checkpoint."""
    from lorawright.cli import console
    from lorawright.config import load
    from lorawright.distributed.signals import quiet
    from lorawright.errors import ConfigError

    if overwrite and (resume or resume_anyway):
        raise ConfigError(
            "both given", where="--overwrite --resume", hint="begin anew or go on: choose one"
        )
    overrides = with_processes(set_, num_processes, strategy)
    settings = load(config, overrides).config
    if not dry_run:
        _refuse_early(settings, Path(config), resumes=resume or resume_anyway, anew=overwrite)
    quiet()
    from lorawright.cli.screen import TrainScreen
    from lorawright.training import train as stage

    if dry_run:
        given = [part for override in overrides for part in ("--set", override)]
        _dry_run(["lorawright", "train", config, *given], settings, json)
        return
    start = _start(overwrite=overwrite, resume=resume, resume_anyway=resume_anyway)
    with TrainScreen(quiet=json) as screen:
        if prepare_only:
            job = stage.prepare_only(settings, start, screen, Path(config))
            console.out().print(str(job), markup=False)
            return
        again = resume_command(config, overrides)
        result = stage.run(settings, start=start, tell=screen, source=Path(config), command=again)
    if json:
        console.print_json(_as_json(result))
    elif result.stopped_by is None:
        print_result(result)
    if result.stopped_by is not None:
        _say_how_to_go_on(config, overrides, result)
        raise typer.Exit(130 if result.stopped_by.name == "SIGINT" else 0)


def _start(*, overwrite: bool, resume: bool, resume_anyway: bool) -> Start:
    from lorawright.training.train import Start

    if overwrite:
        return Start.OVERWRITE
    if resume_anyway:
        return Start.RESUME_ANYWAY
    return Start.RESUME if resume else Start.NEW


def _refuse_early(settings: Config, source: Path, *, resumes: bool, anew: bool) -> None:
    """What a look at the disk decides, before torch is imported: that takes seconds."""
    from lorawright.data import find_sources
    from lorawright.run import outputs
    from lorawright.run.folder import RunFolder
    from lorawright.run.resume import refuse_if_none
    from lorawright.types import Split

    if settings.distributed.machine_rank == 0:
        folder = RunFolder(Path(settings.training.output))
        if resumes:
            refuse_if_none(folder)
        else:
            # `train RUN/config.yaml`
            is_its_own = folder.holds_a_run() and source.resolve() == folder.config.resolve()
            if anew or not is_its_own:
                outputs.refuse_unsafe(settings, source)
            if not anew:
                folder.refuse_if_taken()
    for place, split in ((settings.data.train, Split.TRAIN), (settings.data.eval, Split.EVAL)):
        if isinstance(place, str):
            find_sources(place, split)


def resume_command(config: str, overrides: list[str]) -> list[str]:
    """What goes on with a run, from whatever folder it is typed."""
    given = [part for override in overrides for part in ("--set", override)]
    return ["lorawright", "train", str(Path(config).resolve()), *given, "--resume"]


def _say_how_to_go_on(config: str, overrides: list[str], result: Result) -> None:
    from lorawright.cli import console

    assert result.stopped_by is not None
    begun = result.outcome.last_step > 0
    again = resume_command(config, overrides)
    typed, name = shlex.join([*again[:2], config, *again[3:]]), result.stopped_by.name
    if begun:
        text = f"stopped by {name}, saved; go on with: {typed}"
    else:
        text = f"stopped by {name}, before the first step; go on with: {typed}"
    console.err().print(text, markup=False)


def print_result(result: Result) -> None:
    from lorawright.cli import console, verdict

    out, found = console.out(), result.outcome
    losses = verdict.training_loss(found)
    steps = f"{result.num_steps} steps in {units.duration(found.seconds)}; {losses}"
    out.print(console.lead("bold green", "done", steps))
    if found.eval_last is not None:
        out.print(verdict.evaluation(found))
    out.print(f"adapter: {result.folder.adapter}", markup=False)
    out.print(f"report:  {result.folder.path / 'report.html'}", markup=False)
    out.print(f"try it:  lorawright chat {result.folder.path}", markup=False)


def _as_json(result: Result) -> dict[str, object]:
    return {
        "run": str(result.folder.path),
        "adapter": str(result.folder.adapter),
        "num_steps": result.num_steps,
        "first_loss": result.first_loss,
        "last_loss": result.last_loss,
        "mean_last_loss": result.outcome.last_loss,
        "num_last": result.outcome.num_last,
        "first_eval_loss": result.outcome.eval_first,
        "first_eval_step": result.outcome.eval_first_step,
        "change": result.outcome.change,
        "eval_loss": result.eval_loss,
        "seconds": result.seconds,
        "stopped_by": None if result.stopped_by is None else result.stopped_by.name,
    }


def _dry_run(command: list[str], settings: object, json: bool) -> None:
    """The resolved config, TRL's and PEFT's, and the command; nothing is loaded or written."""
    from lorawright.cli import console
    from lorawright.config import Config
    from lorawright.plan import run_plan
    from lorawright.run.events import silent
    from lorawright.run.folder import dump_config
    from lorawright.training import train as stage

    assert isinstance(settings, Config)
    plan = run_plan.make(settings, silent)
    facts = stage.describe(plan, command)
    if json:
        console.print_json(facts)
        return
    out = console.out()
    out.print(dump_config(plan.config, plan.settings.reasons), markup=False, end="")
    out.print(f"# {plan.steps.num_steps} steps", markup=False)
    for name, text in facts["launch"]["files"].items():
        out.print(f"\n# {name}\n{text}", markup=False, end="")
    out.print(f"# command: {shlex.join(facts['launch']['command'])}", markup=False)
