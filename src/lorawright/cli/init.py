"""`lorawright init DIR`: a config and a data skeleton that pass `check`."""

from __future__ import annotations

from typing import Annotated

import typer


def init(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    model: Annotated[
        str, typer.Option(help="A hub id, a folder, or `tiny`.")
    ] = "Qwen/Qwen2.5-0.5B-Instruct",
) -> None:
    """Write a config and example chats to start from."""
    from lorawright.cli import console
    from lorawright.cli.starter import write_project

    for path in write_project(folder, model):
        console.out().print(str(path))
    console.note(f"next: lorawright check {folder}/config.yaml")
