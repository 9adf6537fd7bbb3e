"""One definition of loss, time and "it learned", and every place that tells it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from helpers import evaluation_file

from lorawright.cli import verdict
from lorawright.report.summary import summarize
from lorawright.run import card, outcome
from lorawright.run import facts as run_facts
from lorawright.run.outcome import Change, judge, paired_standard_error


def line(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "loss": loss, "seconds": 2.0}


def evaluation(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "eval_loss": loss, "eval_seconds": 30.0}


@pytest.mark.parametrize(
    ("num_steps", "num_last"), [(1, 1), (19, 1), (39, 1), (40, 2), (111, 5), (5000, 20)]
)
def test_the_last_loss_is_a_mean_over_a_twentieth_of_the_steps(
    num_steps: int, num_last: int
) -> None:
    found = outcome.outcome([line(n, float(n)) for n in range(1, num_steps + 1)])
    assert (found.first_loss, found.num_last) == (1.0, num_last)
    assert found.last_loss == pytest.approx(np.mean(range(num_steps - num_last + 1, num_steps + 1)))


def test_time_is_steps_and_evaluations() -> None:
    lines = [evaluation(0, 7.0), line(1, 3.0), line(2, 2.0), evaluation(2, 1.0)]
    assert outcome.outcome(lines).seconds == 64.0


def test_numbers_that_are_none_are_passed_over() -> None:
    found = outcome.outcome([line(1, math.nan), {"step": 2, "loss": None, "seconds": None}])
    assert found.last_loss is None and found.change is None and found.last_step == 2


@pytest.mark.parametrize(
    ("before", "after", "error", "said"),
    [
        (1.830, 1.821, None, Change.UNCLEAR),  # half a per cent
        (1.830, 1.801, None, Change.BETTER),
        (1.830, 1.861, None, Change.WORSE),
        (1.830, 1.700, 0.07, Change.UNCLEAR),  # less than two standard errors
        (1.830, 1.700, 0.06, Change.BETTER),
        (1.830, 1.821, 0.0001, Change.UNCLEAR),  # certain, and too small to show
        (0.0, 0.0, None, Change.UNCLEAR),
    ],
)
def test_a_change_needs_a_margin(
    before: float, after: float, error: float | None, said: Change
) -> None:
    assert judge(before, after, error) is said


def test_the_standard_error_is_that_of_resampled_chats() -> None:
    """Against a bootstrap over chats."""
    drawn = np.random.default_rng(1)
    tokens = drawn.integers(5, 200, 60)
    before = tokens * drawn.normal(2.0, 0.4, 60)
    after = before - tokens * drawn.normal(0.1, 0.3, 60)
    pairs = [(float(b), float(a), int(n)) for b, a, n in zip(before, after, tokens, strict=True)]
    picked = drawn.integers(0, 60, (20_000, 60))
    means = (after - before)[picked].sum(1) / tokens[picked].sum(1)
    assert paired_standard_error(pairs) == pytest.approx(means.std(), rel=0.1)
    assert paired_standard_error(pairs[:1]) is None


def test_answers_are_counted_by_a_stated_score() -> None:
    def sample(base: tuple[bool, float], tuned: tuple[bool, float]) -> dict[str, Any]:
        named = {"base": base, "tuned": tuned}
        scores = {name: {"exact_match": e, "chrf": c} for name, (e, c) in named.items()}
        return {"scores": scores}

    samples = [
        sample((False, 90.0), (True, 100.0)),
        sample((True, 100.0), (False, 99.9)),
        sample((False, 40.0), (False, 40.9)),
        sample((False, 40.0), (False, 42.0)),
        sample((False, 40.0), (False, 38.0)),
    ]
    assert outcome.count_answers(samples) == {"better": 2, "worse": 2, "equal": 1}
    assert outcome.count_answers([{"scores": {"base": None, "tuned": None}}]) is None


def write(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines))


def test_terminal_report_and_card_tell_the_same(own_run: Path) -> None:
    """The last step's chats may be hard ones: nobody tells its loss alone."""
    losses = [*np.linspace(2.0, 1.0, 99).tolist(), 5.0]
    steps = [line(n, loss) for n, loss in enumerate(losses, 1)]
    write(own_run, [evaluation(0, 2.0), *steps, evaluation(100, 1.5)])
    facts = run_facts.read(own_run)
    mean = f"{np.mean(losses[-5:]):.4f}"
    assert f"{summarize(facts).outcome.last_loss:.4f}" == mean
    assert f"2.0000 → {mean} (mean of the last 5 logged steps)" in verdict.training_loss(
        facts.outcome
    )
    text = card.card(facts)
    assert f"mean of the last 5 logged | 2.0000, {mean} |" in text
    assert "| 1.5000 (base 2.0000) |" in text
    said = verdict.evaluation(facts.outcome).plain
    assert said == "it learned: eval loss 2.0000 (base) → 1.5000"


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ([evaluation(0, 1.830), evaluation(8, 1.821)], "unclear_base"),
        ([evaluation(0, 1.830), evaluation(8, 1.5)], "learned_base"),
        ([evaluation(0, 1.830), evaluation(8, 1.9)], "worse_base"),
        ([evaluation(4, 1.830), evaluation(8, 1.5)], "learned"),  # an older version's run
        ([evaluation(4, 1.830), evaluation(8, 1.83)], "unclear"),
    ],
)
def test_the_headline_says_what_can_be_said(
    own_run: Path, lines: list[dict[str, Any]], key: str
) -> None:
    write(own_run, lines)
    assert summarize(run_facts.read(own_run)).headline.key == key


def test_evaluate_takes_its_standard_error(own_run: Path) -> None:
    found = evaluation_file({"loss": 1.83}, {"loss": 1.7}, standard_error=0.07)
    (own_run / "evaluation.json").write_text(json.dumps(found))
    assert summarize(run_facts.read(own_run)).headline.key == "unclear_base"
