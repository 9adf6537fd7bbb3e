"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML config.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a config key, e.g. training.epochs=1."),
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
