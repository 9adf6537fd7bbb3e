"""`lorawright push RUN REPO`: the adapter and its card to the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from lorawright.cli.options import Json, Run


def push(
    run: Run,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    base_model: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="The base on the hub, if yours is a folder."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files that would go, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Upload an adapter with its card; no checkpoints, no data."""
    from lorawright.cli import console
    from lorawright.distributed.signals import quiet

    quiet()
    from lorawright.exporters import push as stage

    done = stage.push(run, repo, base=base_model, private=private, dry_run=dry_run)
    if json:
        console.print_json({"repo": done.repo, "files": done.files, "url": done.url})
        return
    out = console.out()
    for name, size in done.files.items():
        out.print(f"{size:>12,}  {name}")
    out.print(f"would go to {done.repo}" if done.url is None else done.url)
