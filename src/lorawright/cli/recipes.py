"""`lorawright recipes`: configs to copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from lorawright.errors import ConfigError
from lorawright.i18n.catalogue import translate, translate_comments


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one.")] = None,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Copy it there.")] = None,
) -> None:
    """List, print or copy the configs that come with lorawright."""
    from lorawright.cli import console

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


@dataclass(frozen=True, slots=True)
class Recipe:
    """A config that comes with the package; its first line says what it is for."""

    name: str
    summary: str
    text: str


def list_recipes() -> Iterator[Recipe]:
    folder = files("lorawright") / "assets" / "recipes"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            text = entry.read_text(encoding="utf-8")
            summary = text.split("\n", 1)[0].removeprefix("#").strip()
            yield Recipe(entry.name.removesuffix(".yaml"), summary, text)


def find_recipe(name: str) -> str:
    """A recipe's text; raises ConfigError with the nearest name."""
    import difflib

    known = {recipe.name: recipe.text for recipe in list_recipes()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else f"expected one of: {', '.join(known)}"
    raise ConfigError(f"no recipe `{name}`", where="recipes", hint=hint)
