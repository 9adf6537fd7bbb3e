"""`lorawright report RUN`: a run as one page; `report A B C` lays runs over each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorawright.cli.options import Json


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="RUN/report.html, or comparison.html."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run as one HTML page; several runs: compare them."""
    from lorawright import report as pages
    from lorawright.cli import console
    from lorawright.errors import LorawrightError

    language = pages.own_language()
    target = None if out is None else Path(out)
    try:
        if len(runs) == 1:
            path = pages.write(runs[0], language, target)
        else:
            path = pages.compare(runs, language, target or Path("comparison.html"))
    except OSError as error:
        raise LorawrightError(
            f"cannot be written: {error.strerror}",
            where=out or runs[0],
            hint="name another file: `--out FILE`",
        ) from None
    if json:
        console.print_json({"path": str(path), "runs": runs})
    else:
        console.out().print(f"written: {path}", markup=False)
