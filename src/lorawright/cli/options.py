"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML config.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a config key, e.g. training.epochs=1; paths start here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
Output = Annotated[
    str | None, typer.Option("--output", metavar="DIR", help="Where to; else in the run folder.")
]
ProofData = Annotated[
    str | None,
    typer.Option("--data", help="Chats for the proof, instead of the run's evaluation set."),
]
MaxKl = Annotated[
    float | None,
    typer.Option("--max-kl", min=0, help="Highest mean KL; else what rounding explains."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
NumProcesses = Annotated[
    str | None,
    typer.Option(
        "--num-processes", metavar="N", help="Processes over all machines; short for --set."
    ),
]
StrategyName = Annotated[
    str | None,
    typer.Option(
        "--strategy", metavar="NAME", help="none, ddp, zero1, zero2, zero3, fsdp2 or auto."
    ),
]


def with_processes(
    overrides: list[str] | None, num_processes: str | None, strategy: str | None
) -> list[str]:
    """The short options as what they stand for."""
    found = list(overrides or [])
    if num_processes is not None:
        found.append(f"distributed.num_processes={num_processes}")
    if strategy is not None:
        found.append(f"distributed.strategy={strategy}")
    return found
