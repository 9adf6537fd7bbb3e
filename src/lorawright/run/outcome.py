"""Lines of metrics → the figures that terminal, report, model card and `--json` share.

loss         first logged step → mean over the last 5 % of the logged steps, 1 to 20 of them
evaluation   first → last; the first is the base's where the run was evaluated before step 1
time         in steps and evaluations, all sittings of a resumed run together
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MOST_LAST = 20  # logged steps in the mean at the end
LAST_SHARE = 20  # one in so many logged steps belongs to the end

# A change counts from here on. Two standard errors of the paired difference: chats drawn anew
# would turn it round in 1 of 20 cases. One per cent of the loss: what moves less does not show
# in answers, and one evaluation set of a run says no more where no standard error is known.
NUM_STANDARD_ERRORS = 2.0
SMALLEST_SHARE = 0.01

CHRF_POINTS = 1.0  # answers nearer to each other than this are as good as each other


class Change(StrEnum):
    """What can be said of two figures."""

    BETTER = "better"  # by more than the margin
    WORSE = "worse"  # by more than the margin
    UNCLEAR = "unclear"  # within it


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of a run, from its lines of metrics.

    Attributes:
        first_loss: Of the first logged step.
        last_loss: Mean over the last logged steps.
        num_last: Over how many.
        eval_first, eval_last: Evaluation losses; equal steps where there was one evaluation.
        eval_first_step, eval_last_step: When; 0 is before the first step.
        best_step: Where the evaluation loss was lowest.
        seconds: In steps and evaluations, all sittings together.
        last_step: How far it came.
    """

    first_loss: float | None
    last_loss: float | None
    num_last: int
    eval_first: float | None
    eval_last: float | None
    eval_first_step: int
    eval_last_step: int
    best_step: int | None
    seconds: float
    last_step: int

    @property
    def change(self) -> Change | None:
        """Of the evaluation loss; None with fewer than two evaluations."""
        if self.eval_first is None or self.eval_last is None:
            return None
        if self.eval_first_step == self.eval_last_step:
            return None
        return judge(self.eval_first, self.eval_last)


def outcome(lines: Sequence[Mapping[str, Any]]) -> Outcome:
    """The figures of a run.

    Args:
        lines: Of metrics.jsonl; values that are None or not finite are passed over.
    """
    steps = [line for line in lines if "loss" in line]
    losses = [float(line["loss"]) for line in steps if _is_number(line["loss"])]
    evals = [line for line in lines if _is_number(line.get("eval_loss"))]
    num_last = max(1, min(MOST_LAST, len(losses) // LAST_SHARE))
    best = min(evals, key=lambda line: float(line["eval_loss"]), default=None)
    times = [line.get("seconds") or line.get("eval_seconds") or 0.0 for line in lines]
    return Outcome(
        first_loss=losses[0] if losses else None,
        last_loss=math.fsum(losses[-num_last:]) / num_last if losses else None,
        num_last=num_last,
        eval_first=evals[0]["eval_loss"] if evals else None,
        eval_last=evals[-1]["eval_loss"] if evals else None,
        eval_first_step=int(evals[0]["step"]) if evals else 0,
        eval_last_step=int(evals[-1]["step"]) if evals else 0,
        best_step=None if best is None else int(best["step"]),
        seconds=math.fsum(times),
        last_step=int(steps[-1]["step"]) if steps else 0,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def margin(before: float, standard_error: float | None = None) -> float:
    """The smallest difference from `before` that counts as a change."""
    by_chance = 0.0 if standard_error is None else NUM_STANDARD_ERRORS * standard_error
    return max(SMALLEST_SHARE * abs(before), by_chance)


def judge(before: float, after: float, standard_error: float | None = None) -> Change:
    """What can be said of two losses on the same chats.

    Args:
        before: Of the base, or of the first evaluation.
        after: Of the tuned model.
        standard_error: Of their paired difference, where it is known.
    """
    if abs(after - before) <= margin(before, standard_error):
        return Change.UNCLEAR
    return Change.BETTER if after < before else Change.WORSE


def paired_standard_error(pairs: Sequence[tuple[float, float, int]]) -> float | None:
    """Of the difference of two mean losses per token, chats being what is drawn at random.

    Args:
        pairs: For each chat: summed loss before, summed loss after, number of tokens.

    Returns:
        None for fewer than two chats.
    """
    num_chats, num_tokens = len(pairs), sum(tokens for _, _, tokens in pairs)
    if num_chats < 2 or num_tokens == 0:
        return None
    mean = math.fsum(after - before for before, after, _ in pairs) / num_tokens
    squares = math.fsum(
        (after - before - mean * tokens) ** 2 for before, after, tokens in pairs
    )  # the usual estimate for a ratio of sums
    return math.sqrt(num_chats / (num_chats - 1) * squares) / num_tokens


def answer_change(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Change:
    """One answer's scores before and after: exact match first, then chrF.

    `UNCLEAR` means: as good as before.
    """
    if base["exact_match"] != tuned["exact_match"]:
        return Change.BETTER if tuned["exact_match"] else Change.WORSE
    difference = tuned["chrf"] - base["chrf"]
    if abs(difference) <= CHRF_POINTS:
        return Change.UNCLEAR
    return Change.BETTER if difference > 0 else Change.WORSE


def count_answers(samples: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """How many answers became better, worse, or stayed as good; None without the base's."""
    found = [
        answer_change(sample["scores"]["base"], sample["scores"]["tuned"])
        for sample in samples
        if sample["scores"].get("base") and sample["scores"].get("tuned")
    ]
    if not found:
        return None
    counts = {str(kind): found.count(kind) for kind in Change}
    return {"better": counts["better"], "worse": counts["worse"], "equal": counts["unclear"]}
