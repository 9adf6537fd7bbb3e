"""`lorawright recipes`: configs to copy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one.")] = None,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Copy it there.")] = None,
) -> None:
    """List, print or copy the configs that come with lorawright."""
    from lorawright.cli import console
    from lorawright.cli.starter import find_recipe, list_recipes
    from lorawright.errors import ConfigError
    from lorawright.i18n.catalogue import translate, translate_comments

    if name is None:
        for recipe in list_recipes():
            console.out().print(f"{recipe.name:<24} {translate(recipe.summary)}")
        console.note("lorawright recipes NAME FILE copies one")
        return
    text = translate_comments(find_recipe(name))
    if file is None:
        sys.stdout.write(text)
        return
    if Path(file).exists():
        raise ConfigError("is there already", where=file, hint="choose another name")
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", where=file, hint="choose another place"
        ) from None
    console.note(f"written: {file}; next: lorawright check {file}")
