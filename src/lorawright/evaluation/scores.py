"""An answer and its reference → exact match, chrF, ROUGE-L, and how its tool calls compare.

chrF is sacrebleu's, ROUGE-L rouge-score's with a tokenizer that knows Chinese (its own keeps only
Latin letters and digits, so that a Chinese answer would score 0). No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics import CHRF

from lorawright.inference.tool_calls import Call, read_calls

UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"  # written without spaces
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


class _Words(Tokenizer):  # type: ignore[misc] # rouge_score is untyped
    """Words of alphabets, characters of Chinese, Japanese and Korean."""

    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())


CHRF_SCORER = CHRF()
ROUGE_SCORER = RougeScorer(["rougeL"], tokenizer=_Words())


@dataclass(frozen=True, slots=True)
class CallScore:
    """The answer's calls against the reference's, matched in order.

    Attributes:
        parses: Every call of the answer is JSON with a name and arguments, and there is one.
        name: All names are the reference's.
        num_arguments: Arguments of the reference.
        num_arguments_match: Of these, those that the answer has with an equal value.
        exact: Names and arguments are equal, none is left out or added.
    """

    parses: bool
    name: bool
    num_arguments: int
    num_arguments_match: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Score:
    """One answer; `stopped`: it ended by the turn's end token within the limit."""

    exact_match: bool
    chrf: float
    rouge_l: float
    stopped: bool
    num_tokens: int
    tool_calls: CallScore | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(answer: str, reference: str, *, stopped: bool, num_tokens: int) -> Score:
    """Compares texts without the white space around them; the end token is not part of them."""
    answer, reference = answer.strip(), reference.strip()
    calls = read_calls(reference)
    return Score(
        exact_match=answer == reference,
        chrf=CHRF_SCORER.sentence_score(answer, [reference]).score,
        rouge_l=ROUGE_SCORER.score(reference, answer)["rougeL"].fmeasure,
        stopped=stopped,
        num_tokens=num_tokens,
        tool_calls=compare_calls(read_calls(answer), calls) if calls else None,
    )


def compare_calls(answered: list[Call] | None, wanted: Sequence[Call]) -> CallScore:
    num_arguments = sum(len(call.arguments) for call in wanted)
    if not answered:
        return CallScore(False, False, num_arguments, 0, False)
    pairs = list(zip(answered, wanted, strict=False))
    matches = sum(
        name in got.arguments and got.arguments[name] == value
        for got, call in pairs
        if got.name == call.name
        for name, value in call.arguments.items()
    )
    return CallScore(
        parses=True,
        name=[call.name for call in answered] == [call.name for call in wanted],
        num_arguments=num_arguments,
        num_arguments_match=matches,
        exact=list(answered) == list(wanted),
    )


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Means over answers; arguments over all arguments. None where nothing was answered."""
    num = len(scores)
    calls = [one.tool_calls for one in scores if one.tool_calls is not None]
    return {
        "num_samples": num,
        "exact_match": _mean([one.exact_match for one in scores]),
        "chrf": _mean([one.chrf for one in scores]),
        "rouge_l": _mean([one.rouge_l for one in scores]),
        "stop": _mean([one.stopped for one in scores]),
        "tool_calls": _call_summary(calls) if calls else None,
    }


def _call_summary(calls: Sequence[CallScore]) -> dict[str, Any]:
    num_arguments = sum(call.num_arguments for call in calls)
    matches = sum(call.num_arguments_match for call in calls)
    return {
        "num_samples": len(calls),
        "parses": _mean([call.parses for call in calls]),
        "name": _mean([call.name for call in calls]),
        "arguments": matches / num_arguments if num_arguments else None,
        "exact": _mean([call.exact for call in calls]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
