"""Chats, questions and two models, one after the other → figures of each, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorawright.evaluation import losses, scores
from lorawright.evaluation.chats import EvalChat, Question
from lorawright.evaluation.losses import Losses, TokenSums
from lorawright.evaluation.scores import Score
from lorawright.inference import batches
from lorawright.masks import ChatTokenizer
from lorawright.run.outcome import count_answers, paired_standard_error

Progress = Callable[[str, int, int], None]
"""Told what is going on, how much more of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model's losses, and the texts and scores of its answers."""

    losses: Losses
    texts: list[str]
    scores: list[Score]

    def figures(self) -> dict[str, Any]:
        return {**self.losses.trained.figures(), **scores.summary(self.scores)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Chats, questions and limits that are the same for every model.

    Attributes:
        chats: The evaluation set.
        questions: The places in them where the models answer.
        tokenizer: For the texts.
        end_ids: Tokens that end an answer, the turn's end first.
        max_new_tokens: Longest answer.
        tokens_per_pass: How many tokens a forward pass may hold.
        progress: Told of chats and answers.
    """

    chats: Sequence[EvalChat]
    questions: Sequence[Question]
    tokenizer: ChatTokenizer
    end_ids: Sequence[int]
    max_new_tokens: int
    tokens_per_pass: int
    progress: Progress

    def measure(self, model: Any, name: str) -> ModelFigures:
        """Losses and answers of one model.

        Args:
            model: Base or PEFT model, in evaluation mode.
            name: For the progress.
        """
        num_chats, num_questions = len(self.chats), len(self.questions)
        found = losses.measure(
            model,
            self.chats,
            self.tokens_per_pass,
            lambda num_done: self.progress(f"{name}: loss", num_done, num_chats),
        )
        answers = batches.answer(
            model,
            [question.prompt_ids for question in self.questions],
            end_ids=self.end_ids,
            max_new_tokens=self.max_new_tokens,
            tokens_per_batch=4 * self.tokens_per_pass,  # only keys and values are kept
            progress=lambda num_done: self.progress(f"{name}: answers", num_done, num_questions),
        )
        texts = [self.tokenizer.decode(answer.ids) for answer in answers]
        scored = [
            scores.score(
                text, self.reference(question), stopped=answer.stopped, num_tokens=len(answer.ids)
            )
            for text, answer, question in zip(texts, answers, self.questions, strict=True)
        ]
        return ModelFigures(found, texts, scored)

    def reference(self, question: Question) -> str:
        """The reference's text, without its end token."""
        return self.tokenizer.decode(question.answer_ids[:-1])

    def compare(self, base: ModelFigures | None, tuned: ModelFigures) -> dict[str, Any]:
        """Both models' figures as plain data; a base that was not measured is None."""
        figures = {"base": None if base is None else base.figures(), "tuned": tuned.figures()}
        before = None if base is None else base.losses
        roles = _pairs(None if before is None else before.by_role, tuned.losses.by_role)
        lengths = _pairs(None if before is None else before.by_length, tuned.losses.by_length)
        classes = [losses.length_class(len(chat.encoded.ids)) for chat in self.chats]
        samples = [self._sample(n, base, tuned) for n in range(len(self.questions))]
        return {
            **figures,
            "standard_error": None if before is None else _standard_error(before, tuned.losses),
            "answers": count_answers(samples),
            "by_role": roles,
            "by_length": {
                name: {"num_chats": classes.count(name), **lengths[name]}
                for name in losses.LENGTH_CLASSES
                if name in lengths
            },
            "stop": {name: None if f is None else f["stop"] for name, f in figures.items()},
            "samples": samples,
        }

    def _sample(
        self, number: int, base: ModelFigures | None, tuned: ModelFigures
    ) -> dict[str, Any]:
        question = self.questions[number]
        models = {"base": base, "tuned": tuned}
        return {
            "file": question.chat.encoded.file,
            "line": question.chat.encoded.line,
            "turn": question.turn,
            "prompt": question.messages,
            "tools": question.tools,
            "reference": self.reference(question),
            **{name: None if m is None else m.texts[number] for name, m in models.items()},
            "scores": {
                name: None if m is None else m.scores[number].as_dict()
                for name, m in models.items()
            },
        }


def _standard_error(base: Losses, tuned: Losses) -> float | None:
    """Of the difference of both losses, over chats."""
    pairs = [(base.by_chat[number], sums) for number, sums in tuned.by_chat.items()]
    return paired_standard_error([(a.loss, b.loss, a.num_tokens) for a, b in pairs])


def _pairs(base: Mapping[str, TokenSums] | None, tuned: Mapping[str, TokenSums]) -> dict[str, Any]:
    return {
        name: {"base": None if base is None else base[name].figures(), "tuned": sums.figures()}
        for name, sums in tuned.items()
    }
