"""`lorawright eject CONFIG`: the same run as a plain TRL script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides


def eject(
    config: ConfigFile,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="By default CONFIG's name-trl.")
    ] = None,
    set_: Overrides = None,
    json: Json = False,
) -> None:
    """Write a plain TRL script that does the same run without lorawright."""
    from lorawright.cli import console
    from lorawright.config import load
    from lorawright.distributed.signals import quiet

    settings = load(config, set_ or []).config
    quiet()
    from lorawright.exporters import eject as stage

    folder = Path(out) if out is not None else Path(f"{Path(config).stem}-trl")
    done = stage.eject(settings, config, folder)
    if json:
        console.print_json(
            {
                "path": str(done.folder),
                "command": done.command,
                "data": done.form,
                "reason": done.reason,
                "files": done.files,
            }
        )
        return
    for name in done.files:
        console.out().print(f"{done.folder}/{name}")
    if done.reason is not None:
        console.note(f"data as ids and labels, not as chats: {done.reason}")
    console.out().print(f"run it:  cd {done.folder} && {done.command}")
