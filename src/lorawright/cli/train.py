"""`lorawright train CONFIG`: the run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides

if TYPE_CHECKING:
    from lorawright.train import Result


def train(
    config: ConfigFile,
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
    json: Json = False,
) -> None:
    """Train; `--resume` goes on from the newest checkpoint."""
    from lorawright.cli import console
    from lorawright.cli.quiet import quiet
    from lorawright.config import load
    from lorawright.errors import ConfigError

    if overwrite and (resume or resume_anyway):
        raise ConfigError(
            "both given", where="--overwrite --resume", hint="begin anew or go on: choose one"
        )
    settings = load(config, set_ or []).config
    quiet()
    from lorawright import train as stage
    from lorawright.cli.screen import TrainScreen

    if dry_run:
        overrides = [part for override in set_ or [] for part in ("--set", override)]
        _dry_run(["lorawright", "train", config, *overrides], settings, json)
        return
    start = (
        stage.Start.OVERWRITE
        if overwrite
        else stage.Start.RESUME_ANYWAY
        if resume_anyway
        else stage.Start.RESUME
        if resume
        else stage.Start.NEW
    )
    with TrainScreen(quiet=json) as screen:
        result = stage.run(settings, start=start, screen=screen)
    if json:
        console.print_json(_as_json(result))
    elif result.stopped_by is None:
        print_result(result)
    if result.stopped_by is not None:
        again = "".join(f"--set {shlex.quote(override)} " for override in set_ or [])
        console.err().print(
            f"stopped by {result.stopped_by.name}, saved; go on with: "
            f"lorawright train {shlex.quote(config)} {again}--resume",
            markup=False,
        )
        raise typer.Exit(130 if result.stopped_by.name == "SIGINT" else 0)


def print_result(result: Result) -> None:
    from lorawright.cli import console

    evaluation = "" if result.eval_loss is None else f", eval loss {result.eval_loss:.4f}"
    out = console.out()
    out.print(
        f"[bold green]done[/]: {result.num_steps} steps in {console.duration(result.seconds)}; "
        f"loss {result.first_loss:.4f} → {result.last_loss:.4f}{evaluation}"
    )
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
        "eval_loss": result.eval_loss,
        "seconds": result.seconds,
        "stopped_by": None if result.stopped_by is None else result.stopped_by.name,
    }


def _dry_run(command: list[str], settings: object, json: bool) -> None:
    """The resolved config, TRL's and PEFT's, and the command; nothing is loaded or written."""
    from lorawright import train as stage
    from lorawright.cli import console
    from lorawright.config import Config
    from lorawright.run_folder import dump_config

    assert isinstance(settings, Config)
    ready = stage.get_ready(settings, stage.Screen())
    facts = stage.describe(ready, command)
    if json:
        console.print_json(facts)
        return
    out = console.out()
    out.print(dump_config(ready.config, ready.resolved.reasons), markup=False, end="")
    out.print(f"# {ready.plan.num_steps} steps", markup=False)
    out.print(f"# command: {shlex.join(command)}", markup=False)
