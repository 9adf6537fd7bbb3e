"""Curves for the page: what `charts.js` draws with uPlot.

A series has points only where the run has values; long runs are thinned to means over stretches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorawright.run.facts import RunFacts

MOST_POINTS = 1500  # of a series; a page of a million steps stays small
SMOOTHING_SHARE = 0.04  # of the steps: the width of the running mean

Style = Literal["faint", "line", "dashed", "dots"]
Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: a label, a colour by number, a style, and points (step, value)."""

    label: str
    colour: int
    style: Style
    points: Points

    def for_page(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "colour": self.colour,
            "style": self.style,
            "x": [step for step, _ in self.points],
            "y": [value for _, value in self.points],
        }


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture: `key` names its title in `words`."""

    key: str
    series: tuple[Series, ...]
    wide: bool = False


def charts(runs: Sequence[RunFacts], labels: dict[str, str]) -> list[Chart]:
    """The curves of one run, or of several over each other; empty charts are left out.

    Args:
        runs: In the order of their colours.
        labels: Words of the page, for the legend.
    """
    alone = len(runs) == 1
    made = [
        Chart("loss", _loss(runs, labels, alone), wide=True),
        Chart("accuracy", _accuracy(runs, labels, alone)),
        Chart("learning_rate", _plain(runs, "learning_rate", labels, alone)),
        Chart("grad_norm", _plain(runs, "grad_norm", labels, alone)),
        Chart("tokens_per_second", _plain(runs, "tokens_per_second", labels, alone)),
    ]
    return [chart for chart in made if any(series.points for series in chart.series)]


def _loss(runs: Sequence[RunFacts], labels: dict[str, str], alone: bool) -> tuple[Series, ...]:
    made: list[Series] = []
    for colour, run in enumerate(runs):
        name = "" if alone else f"{run.name} "
        train = points(run.steps, "loss")
        evaluation = points(run.evals, "eval_loss")
        if alone:
            made.append(Series(labels["train"], colour, "faint", thin(train)))
        made.append(Series(f"{name}{labels['smoothed']}", colour, "line", thin(smooth(train))))
        if evaluation:
            at = 1 if alone else colour
            style: Style = "dots" if alone else "dashed"
            made.append(Series(f"{name}{labels['eval']}", at, style, thin(evaluation)))
    return tuple(made)


def _accuracy(runs: Sequence[RunFacts], labels: dict[str, str], alone: bool) -> tuple[Series, ...]:
    made: list[Series] = []
    for colour, run in enumerate(runs):
        name = "" if alone else f"{run.name} "
        train = smooth(points(run.steps, "token_accuracy"))
        evaluation = points(run.evals, "eval_token_accuracy")
        made.append(Series(f"{name}{labels['smoothed']}", colour, "line", thin(train)))
        if evaluation:
            at = 1 if alone else colour
            style: Style = "dots" if alone else "dashed"
            made.append(Series(f"{name}{labels['eval']}", at, style, thin(evaluation)))
    return tuple(made)


def _plain(
    runs: Sequence[RunFacts], key: str, labels: dict[str, str], alone: bool
) -> tuple[Series, ...]:
    return tuple(
        Series(labels[key] if alone else run.name, colour, "line", thin(points(run.steps, key)))
        for colour, run in enumerate(runs)
    )


def points(lines: Sequence[dict[str, Any]], key: str) -> Points:
    """(step, value) of the lines that have one."""
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def thin(given: Points) -> Points:
    """At most MOST_POINTS: means over equal stretches, the last step kept."""
    if len(given) <= MOST_POINTS:
        return given
    width = -(-len(given) // MOST_POINTS)
    stretches = [given[at : at + width] for at in range(0, len(given), width)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in stretches]


def smooth(given: Points) -> Points:
    """A running mean over the last few per cent of the steps; ends where the curve ends."""
    width = max(1, round(len(given) * SMOOTHING_SHARE))
    total, made = 0.0, []
    for number, (step, value) in enumerate(given):
        total += value
        if number >= width:
            total -= given[number - width][1]
        made.append((step, total / min(number + 1, width)))
    return made
