"""Whether it worked, in a few sentences and figures; keys are words of the page."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorawright.run.facts import RunFacts, State
from lorawright.run.outcome import Change, Outcome, count_answers, judge, margin

WORSE_BY = 1.02  # an evaluation loss this much above its lowest point counts as risen
ALL_STOP = 0.95  # share of answers that end by themselves, below which a word is said


class Tone(StrEnum):
    """How a sentence is meant; the page colours it."""

    GOOD = "good"  # better than before
    WARN = "warn"  # to be looked at
    BAD = "bad"  # worse, or failed
    PLAIN = "plain"  # a fact


@dataclass(frozen=True, slots=True)
class Sentence:
    """A word of the table with its values."""

    tone: Tone
    key: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compared:
    """Loss on the evaluation set, before and after.

    Attributes:
        before, after: Losses; `before` is None where there is nothing to compare with.
        since_step: Where `before` is from: 0 is the base, before the first step.
        by_evaluate: Whether `evaluate` has measured them, else the run itself.
        change: What can be said of the difference.
        standard_error: Of the difference, over chats, where it is known.
    """

    before: float | None = None
    after: float | None = None
    since_step: int = 0
    by_evaluate: bool = False
    change: Change | None = None
    standard_error: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures on top.

    Attributes:
        headline: The answer to: did it work?
        remarks: What else must be known.
        outcome: The run's own figures.
        compared: Loss on the evaluation set.
        answers: How many answers became better, worse or stayed as good.
        num_steps: Where it was to come.
        num_tokens: Tokens that went through the model, repeated ones counted.
    """

    headline: Sentence
    remarks: tuple[Sentence, ...]
    outcome: Outcome
    compared: Compared
    answers: dict[str, int] | None
    num_steps: int | None
    num_tokens: int


def summarize(facts: RunFacts) -> Summary:
    """The summary of a run, whatever it has."""
    found, compared = facts.outcome, compare(facts)
    return Summary(
        headline=_headline(facts, found, compared),
        remarks=tuple(_remarks(facts)),
        outcome=found,
        compared=compared,
        answers=count_answers((facts.evaluation or {}).get("samples") or []),
        num_steps=facts.plan.get("num_steps"),
        num_tokens=sum(int(line.get("tokens") or 0) for line in facts.steps),
    )


def resume_command(facts: RunFacts) -> str:
    """What goes on with the run, as it was asked for; a run that a program began has none."""
    command = facts.plan.get("resume_command")
    return shlex.join(command) if command else "lorawright train CONFIG --resume"


def compare(facts: RunFacts) -> Compared:
    """Loss before and after; from `evaluate` where it ran, else from the run's own evaluations."""
    measured = facts.evaluation
    if measured is not None and measured.get("tuned"):
        after, base = measured["tuned"]["loss"], measured.get("base")
        if base is None:
            return Compared(after=after, by_evaluate=True)
        error = measured.get("standard_error")
        change = judge(base["loss"], after, error)
        return Compared(base["loss"], after, 0, True, change, error)
    found = facts.outcome
    if found.change is None:
        return Compared(after=found.eval_last)
    return Compared(found.eval_first, found.eval_last, found.eval_first_step, False, found.change)


def _headline(facts: RunFacts, found: Outcome, compared: Compared) -> Sentence:
    num_steps = facts.plan.get("num_steps") or "?"
    where = {"step": found.last_step, "num_steps": num_steps, "command": resume_command(facts)}
    if facts.state is State.STOPPED:
        return Sentence(Tone.WARN, "stopped", where)
    if facts.state is State.UNFINISHED:
        return Sentence(Tone.BAD, "unfinished", where)
    if compared.before is not None and compared.after is not None:
        return _verdict(compared)
    if found.first_loss is None or found.last_loss is None:
        return Sentence(Tone.PLAIN, "finished")
    values = {"before": found.first_loss, "after": found.last_loss}
    change = judge(found.first_loss, found.last_loss)
    if change is not Change.BETTER:
        tone = Tone.BAD if change is Change.WORSE else Tone.WARN
        return Sentence(tone, "train_worse", values)
    return Sentence(Tone.PLAIN, "train_only" if compared.after is None else "one_eval", values)


def _verdict(compared: Compared) -> Sentence:
    values = {"before": compared.before, "after": compared.after, "step": compared.since_step}
    from_base = compared.by_evaluate or compared.since_step == 0
    match compared.change:
        case Change.BETTER:
            return Sentence(Tone.GOOD, "learned_base" if from_base else "learned", values)
        case Change.WORSE:
            return Sentence(Tone.BAD, "worse_base" if from_base else "worse", values)
    margin_here = margin(compared.before or 0.0, compared.standard_error)
    return Sentence(
        Tone.PLAIN, "unclear_base" if from_base else "unclear", values | {"margin": margin_here}
    )


def _remarks(facts: RunFacts) -> list[Sentence]:
    found: list[Sentence] = []
    evals = [line for line in facts.evals if line["eval_loss"] is not None]
    best = min(evals, key=lambda line: float(line["eval_loss"]), default=None)
    risen = best is not None and evals[-1]["eval_loss"] > best["eval_loss"] * WORSE_BY
    if best is not None and risen and best["step"] > 0:
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
