"""Help and faults of the command line in the user's language, by typer's own hooks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import typer
from typer.core import TyperCommand, TyperGroup

from lorawright.errors import ConfigError
from lorawright.i18n.catalogue import translate

# Typer brings its own copy of click or takes the installed one, by its version: its public names
# lead to the right one.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Formatter(typer.Context.formatter_class):  # type: ignore[misc,valid-type] # see above
    """Writes help; each text is looked up in the catalogue."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, translate("Usage: "))

    def write_heading(self, heading: str) -> None:
        super().write_heading(translate(heading))

    def write_text(self, text: str) -> None:
        super().write_text(translate(text))

    def write_dl(self, rows: Sequence[tuple[str, str]], *columns: int, **named: int) -> None:
        super().write_dl([(name, _with_notes(text)) for name, text in rows], *columns, **named)


def _with_notes(text: str) -> str:
    """`What it does.  [default: 3; required]`, part by part."""
    meaning, gap, notes = text.rpartition("  [")
    if not gap:
        return translate(text)
    parts = [translate(note) for note in notes.removesuffix("]").split("; ")]
    return f"{translate(meaning)}{gap}{'; '.join(parts)}]"


class Context(typer.Context):
    """Of one command line."""

    formatter_class = Formatter


class Command(TyperCommand):
    """A verb."""

    context_class = Context

    def get_short_help_str(self, limit: int = 45) -> str:
        english = inspect.cleandoc(self.help or "")
        shown = translate(english)
        return super().get_short_help_str(limit) if shown == english else shown.split("\n")[0]


class Group(TyperGroup):
    """The command itself."""

    context_class = Context


def as_error(fault: Exception) -> ConfigError:
    """A fault of the command line in the form of all errors."""
    assert isinstance(fault, UsageError)
    context = getattr(fault, "ctx", None)
    command = "lorawright" if context is None else str(context.command_path)
    return ConfigError(
        str(fault.format_message()),  # type: ignore[attr-defined] # UsageError is found at run time
        where=command,
        hint=f"`{command} --help` shows what there is",
    )
