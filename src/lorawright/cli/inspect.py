"""`lorawright inspect CONFIG`: which tokens are trained, row by row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lorawright.masks import ChatTokenizer
    from lorawright.types import EncodedChat


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

    from lorawright import hub, masks
    from lorawright.cli import console
    from lorawright.cli.progress import RowCounter
    from lorawright.config import load
    from lorawright.dataset import prepare
    from lorawright.errors import ConfigError
    from lorawright.run import outputs

    if split not in ("train", "eval"):
        raise ConfigError(
            f"is `{split}`, expected train or eval", where="--split", hint="choose one of the two"
        )
    if html is not None:
        outputs.refuse_foreign_page(Path(html), "--html")
    settings = load(config, set_ or []).config
    with RowCounter(quiet=json) as progress:
        prepared = prepare.run(settings, progress=progress)
    store = prepared.train if split == "train" else prepared.eval
    if store is None:
        raise ConfigError(
            "there is no evaluation set", where="--split eval", hint="set `data.eval`"
        )
    folder = hub.tokenizer_folder(settings.model.name, settings.model.revision)
    tokenizer = masks.load(folder, settings.model.name, settings.template)
    rows = islice(store, num_rows or None)
    if html is not None:
        _write_page(html, tokenizer, rows, f"{config}: {split}")
    elif json:
        for row in rows:
            console.print_json(
                {
                    "file": row.file,
                    "line": row.line,
                    "sequence": row.sequence,
                    "num_sequences": row.num_sequences,
                    "ids": row.ids,
                    "trained": row.trained_flags(),
                    "text": tokenizer.decode(row.ids),
                }
            )
    else:
        for row in rows:
            print_row(tokenizer, row)
    sys.stdout.flush()
    if prepared.errors:
        console.print_problems(prepared.errors)
        raise typer.Exit(1)


def _write_page(
    path: str, tokenizer: ChatTokenizer, rows: Iterable[EncodedChat], title: str
) -> None:
    from lorawright.cli import console
    from lorawright.errors import LorawrightError
    from lorawright.i18n import catalogue
    from lorawright.masks import page

    text = page.page(tokenizer, rows, title, catalogue.language())
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LorawrightError(
            f"cannot be written: {error.strerror}", where=path, hint="name another file"
        ) from None
    console.note(f"written: {path}")


def print_row(tokenizer: object, row: object) -> None:
    """One chat in the terminal."""
    from rich.text import Text

    from lorawright.cli import console
    from lorawright.masks import ChatTokenizer, view
    from lorawright.types import EncodedChat

    assert isinstance(tokenizer, ChatTokenizer) and isinstance(row, EncodedChat)
    text = Text()
    for part, trained in view.runs(tokenizer, row):
        text.append(f"⟦{part}⟧" if trained else part, style="bold green" if trained else "dim")
    out = console.out()
    counts = f"{len(row.ids)} tokens, {row.num_trained_tokens} trained"
    if row.num_sequences > 1:
        counts = f"sequence {row.sequence + 1} of {row.num_sequences}: {counts}"
    out.print(console.lead("bold", f"{row.file}:{row.line}", counts, between="  "))
    out.print(text)
