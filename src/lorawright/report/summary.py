"""Whether it worked, in a few sentences and figures; keys are words of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorawright.run_facts import RunFacts, State

WORSE_BY = 1.02  # an evaluation loss this much above its lowest point counts as risen
ALL_STOP = 0.95  # share of answers that end by themselves, below which a word is said


class Tone(StrEnum):
    """How a sentence is meant; the page colours it."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A word of the table with its values."""

    tone: Tone
    key: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures on top.

    Attributes:
        headline: The answer to: did it work?
        remarks: What else must be known.
        first_loss, last_loss: Of training: the first step, and a mean over the last ones.
        num_last: Over how many logged lines that mean goes.
        before, after: Loss on the evaluation set: base and tuned, else first and last.
        measured_base: Whether `before` is the base model.
        best_step: The step with the lowest evaluation loss.
        last_step, num_steps: Where it came, and where it was to come.
        num_tokens: Tokens that went through the model, repeated ones counted.
    """

    headline: Sentence
    remarks: tuple[Sentence, ...]
    first_loss: float | None
    last_loss: float | None
    num_last: int
    before: float | None
    after: float | None
    measured_base: bool
    best_step: int | None
    last_step: int
    num_steps: int | None
    num_tokens: int


def summarize(facts: RunFacts) -> Summary:
    """The summary of a run, whatever it has."""
    losses = [line["loss"] for line in facts.steps if line["loss"] is not None]
    num_last = max(1, min(20, len(losses) // 20))
    before, after, measured_base = _evaluation(facts)
    evals = [line for line in facts.evals if line["eval_loss"] is not None]
    best = min(evals, key=lambda line: float(line["eval_loss"]), default=None)
    first_loss = losses[0] if losses else None
    last_loss = math.fsum(losses[-num_last:]) / num_last if losses else None
    last_step = facts.steps[-1]["step"] if facts.steps else 0
    return Summary(
        headline=_headline(facts, before, after, measured_base, first_loss, last_loss, last_step),
        remarks=tuple(_remarks(facts, best, evals)),
        first_loss=first_loss,
        last_loss=last_loss,
        num_last=num_last,
        before=before,
        after=after,
        measured_base=measured_base,
        best_step=None if best is None else best["step"],
        last_step=last_step,
        num_steps=facts.plan.get("num_steps"),
        num_tokens=sum(int(line.get("tokens") or 0) for line in facts.steps),
    )


def _evaluation(facts: RunFacts) -> tuple[float | None, float | None, bool]:
    """Loss before and after; from `evaluate` where it ran, else from the run's own evaluations."""
    measured = facts.evaluation
    if measured is not None and measured.get("tuned"):
        base = measured.get("base")
        return (base["loss"] if base else None), measured["tuned"]["loss"], base is not None
    losses = [line["eval_loss"] for line in facts.evals if line["eval_loss"] is not None]
    if not losses:
        return None, None, False
    return (losses[0] if len(losses) > 1 else None), losses[-1], False


def _headline(
    facts: RunFacts,
    before: float | None,
    after: float | None,
    measured_base: bool,
    first_loss: float | None,
    last_loss: float | None,
    last_step: int,
) -> Sentence:
    where = {"step": last_step, "num_steps": facts.plan.get("num_steps") or "?"}
    if facts.state is State.STOPPED:
        return Sentence(Tone.WARN, "stopped", where)
    if facts.state is State.UNFINISHED:
        return Sentence(Tone.BAD, "unfinished", where)
    if before is not None and after is not None:
        values = {"before": before, "after": after}
        if after < before:
            return Sentence(Tone.GOOD, "learned_base" if measured_base else "learned", values)
        return Sentence(Tone.BAD, "worse_base" if measured_base else "worse", values)
    if first_loss is None or last_loss is None:
        return Sentence(Tone.PLAIN, "finished")
    values = {"before": first_loss, "after": last_loss}
    if last_loss >= first_loss:
        return Sentence(Tone.BAD, "train_worse", values)
    return Sentence(Tone.PLAIN, "train_only" if after is None else "one_eval", values)


def _remarks(
    facts: RunFacts, best: dict[str, Any] | None, evals: list[dict[str, Any]]
) -> list[Sentence]:
    found: list[Sentence] = []
    if best is not None and evals[-1]["eval_loss"] > best["eval_loss"] * WORSE_BY:
        values = {"step": best["step"], "low": best["eval_loss"], "last": evals[-1]["eval_loss"]}
        found.append(Sentence(Tone.WARN, "overfit", values))
    stop = ((facts.evaluation or {}).get("stop") or {}).get("tuned")
    if stop is not None:
        tone = Tone.GOOD if stop >= ALL_STOP else Tone.WARN
        found.append(Sentence(tone, "stops", {"share": stop}))
    if facts.num_rejected:
        found.append(Sentence(Tone.WARN, "left_out", {"num": facts.num_rejected}))
    if facts.certificate.get("generation_tags_problem"):
        problem = facts.certificate["generation_tags_problem"]
        found.append(Sentence(Tone.WARN, "tags_problem", {"problem": problem}))
    return found
