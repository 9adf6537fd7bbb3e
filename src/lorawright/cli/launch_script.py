"""`lorawright launch-script CONFIG`: a script for Slurm, SkyPilot or torchrun."""

from __future__ import annotations

from typing import Annotated

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides


def launch_script(
    config: ConfigFile,
    slurm: Annotated[bool, typer.Option("--slurm", help="For `sbatch`.")] = False,
    skypilot: Annotated[bool, typer.Option("--skypilot", help="For `sky launch`.")] = False,
    torchrun: Annotated[bool, typer.Option("--torchrun", help="For each machine by hand.")] = False,
    machines: Annotated[
        int | None, typer.Option(min=1, help="Machines; else the config's number.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of each machine.")] = 8,
    set_: Overrides = None,
    json: Json = False,
) -> None:
    """Print a script that runs a config on several machines."""
    from lorawright.cli import console
    from lorawright.config import load
    from lorawright.distributed.scripts import Scheduler, write
    from lorawright.errors import ConfigError

    asked = {Scheduler.SLURM: slurm, Scheduler.SKYPILOT: skypilot, Scheduler.TORCHRUN: torchrun}
    chosen = [scheduler for scheduler, is_asked in asked.items() if is_asked]
    if len(chosen) != 1:
        raise ConfigError(
            f"{len(chosen)} kinds of script are asked for, expected one",
            where="launch-script",
            hint="give one of --slurm, --skypilot, --torchrun",
        )
    overrides = list(set_ or [])
    number = [] if machines is None else [f"distributed.num_machines={machines}"]
    settings = load(config, [*overrides, *number]).config
    text = write(chosen[0], settings, config, overrides, gpus)
    if json:
        console.print_json({"kind": chosen[0], "text": text})
    else:
        console.out().print(text, end="")
