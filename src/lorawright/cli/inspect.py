"""`lorawright inspect CONFIG`: which tokens are trained, row by row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides


def inspect(
    config: ConfigFile,
    num_rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="Rows; 0: all.")] = 3,
    split: Annotated[str, typer.Option(help="`train` or `eval`.")] = "train",
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page instead.")] = None,
    set_: Overrides = None,
    json: Json = False,
) -> None:
    """Show which tokens are trained: those between ⟦ ⟧."""
    from itertools import islice

    from lorawright import chat, hub, prepare, view
    from lorawright.cli import console
    from lorawright.cli.progress import RowCounter
    from lorawright.config import load
    from lorawright.errors import ConfigError

    settings = load(config, set_ or []).config
    with RowCounter(quiet=json) as progress:
        prepared = prepare.run(settings, progress=progress)
    if split not in ("train", "eval"):
        raise ConfigError(f"is `{split}`, expected train or eval", where="--split")
    store = prepared.train if split == "train" else prepared.eval
    if store is None:
        raise ConfigError(
            "there is no evaluation set", where="--split eval", hint="set `data.eval`"
        )
    folder = hub.tokenizer_folder(settings.model.name, settings.model.revision)
    tokenizer = chat.load(folder, settings.model.name)
    rows = islice(store, num_rows or None)
    if html is not None:
        Path(html).write_text(view.page(tokenizer, rows, f"{config}: {split}"), encoding="utf-8")
        console.note(f"written: {html}")
    elif json:
        for row in rows:
            console.print_json(
                {
                    "file": row.file,
                    "line": row.line,
                    "ids": row.ids,
                    "trained": row.trained_flags(),
                    "text": tokenizer.decode(row.ids),
                }
            )
    else:
        for row in rows:
            print_row(tokenizer, row)
    sys.stdout.flush()
    if not json:
        console.print_problems(prepared.errors)
    if prepared.errors:
        raise typer.Exit(1)


def print_row(tokenizer: object, row: object) -> None:
    """One chat in the terminal."""
    from rich.text import Text

    from lorawright import view
    from lorawright.chat import ChatTokenizer
    from lorawright.cli import console
    from lorawright.types import EncodedChat

    assert isinstance(tokenizer, ChatTokenizer) and isinstance(row, EncodedChat)
    text = Text()
    for part, trained in view.runs(tokenizer, row):
        text.append(f"⟦{part}⟧" if trained else part, style="bold green" if trained else "dim")
    out = console.out()
    out.print(
        f"[bold]{row.file}:{row.line}[/]  {len(row.ids)} tokens, {row.num_trained_tokens} trained"
    )
    out.print(text)
