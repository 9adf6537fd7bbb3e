"""What people read: data on stdout, everything else on stderr; no colour where none is wanted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from lorawright.cli import streams
from lorawright.errors import LorawrightError
from lorawright.i18n.catalogue import translate
from lorawright.types import Kind, Problem, Severity

MOST_SHOWN = 20  # problems printed in full; --json has all
MOST_ALIKE = 3  # of one kind that does not stop the run


class Terminal(Console):
    """Prints texts in the user's language.

    Text is text: brackets in a file's name are no markup, `:x:` in it is no emoji.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(translate(o) if isinstance(o, str) else o for o in objects), **options)

    def rule(self, title: Any = "", **options: Any) -> None:
        super().rule(translate(title) if isinstance(title, str) else title, **options)


def out() -> Terminal:
    return Terminal(file=sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False)


def err() -> Terminal:
    return Terminal(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def lead(style: str, word: str, text: str, between: str = ": ") -> Text:
    """A line whose first word is styled: `done: 8 steps`; style is nowhere else."""
    return Text.assemble((translate(word), style), between, translate(text))


def print_json(value: object) -> None:
    """One JSON value on stdout, nothing else."""
    streams.write_utf8(orjson.dumps(value, default=str) + b"\n")


def print_error(error: LorawrightError) -> None:
    where = f"{error.where}: " if error.where else ""
    err().print(lead("bold red", "error", where + translate(error.what)))
    if error.hint:
        err().print()
        err().print(lead("bold", "hint", error.hint))


def print_problems(problems: Iterable[Problem]) -> None:
    """A line and a hint each; the worst first, the rest counted."""
    listed, num_left_out = _worst(problems)
    if len(listed) == 1 and not num_left_out:
        print_problem(listed[0])
        return
    console = err()
    last_hint = None
    for problem in listed:
        console.print(_headline(problem))
        if problem.hint != last_hint:
            console.print(Text(f"  {translate('hint')}: {translate(problem.hint)}", style="dim"))
        last_hint = problem.hint
    if num_left_out:
        console.print(f"… and {num_left_out} more; `lorawright check CONFIG --json` lists all")


def print_problem(problem: Problem) -> None:
    """A problem that is alone: in the form of an error."""
    err().print(_headline(problem))
    err().print()
    err().print(lead("bold", "hint", problem.hint))


def _headline(problem: Problem) -> Text:
    at = f"{problem.path} " if problem.path and problem.kind != "config" else ""
    colour = {"error": "bold red", "dropped": "yellow", "warning": "yellow"}[problem.severity]
    return lead(colour, problem.severity, f"{problem.where}: {at}{translate(problem.message)}")


def _worst(problems: Iterable[Problem]) -> tuple[list[Problem], int]:
    """What is printed, and how many are not."""
    order = [Severity.ERROR, Severity.DROPPED, Severity.WARNING]
    alike: Counter[tuple[Severity, Kind]] = Counter()
    shown: list[Problem] = []
    num_left_out = 0
    for problem in sorted(problems, key=lambda p: order.index(p.severity)):
        alike[problem.severity, problem.kind] += 1
        harmless = problem.severity is not Severity.ERROR
        too_alike = harmless and alike[problem.severity, problem.kind] > MOST_ALIKE
        if too_alike or len(shown) == MOST_SHOWN:
            num_left_out += 1
        else:
            shown.append(problem)
    return shown, num_left_out


def note(text: str) -> None:
    err().print(text, style="dim")


def warn(text: str) -> None:
    err().print(lead("bold yellow", "warning", text))


def number(value: float) -> str:
    """1234567 → 1,234,567."""
    return f"{value:,.0f}"


def note_unfinished(adapter: str) -> None:
    """Says so where a checkpoint stands in for the adapter of a run that is not finished."""
    if not adapter.endswith("adapter"):
        note(f"the run is not finished: {adapter} was used")


def divergence(found: Mapping[str, Any]) -> str:
    """A comparison of two models in one line."""
    return (
        f"KL mean {found['mean_kl']:.2g}, max {found['max_kl']:.2g}; first choice equal at "
        f"{found['top1_agreement']:.2%} of {number(found['num_positions'])} positions"
    )
