"""Pieces of an answer → text without stop texts and tool calls, and how the answer ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lorawright.inference.generate import GenerationResult
from lorawright.inference.tool_calls import OPENING, Call, read_calls


class Finish(StrEnum):
    """Why an answer ended, in OpenAI's words."""

    STOP = "stop"  # a token or text that ends answers
    LENGTH = "length"  # a limit
    TOOL_CALLS = "tool_calls"  # the answer calls tools


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has ended.

    Attributes:
        rest: Text that has not been sent yet.
        calls: Tools that it calls.
        finish: Why it ended.
        num_prompt_tokens: What the model has read.
        num_tokens: What it has written.
    """

    rest: str
    calls: tuple[Call, ...]
    finish: Finish
    num_prompt_tokens: int
    num_tokens: int


class StreamFilter:
    """Holds back text that could become a stop text, or a call of a tool.

    Args:
        stops: Texts that end the answer and are not part of it.
        calls: Whether the answer may call tools.
    """

    def __init__(self, stops: Sequence[str], *, calls: bool) -> None:
        self._stops = stops
        self._calls = calls
        self._text = ""
        self._num_sent = 0
        self.stopped = False

    def push(self, piece: str) -> str:
        """Takes a piece of the answer; returns the text that may be sent now."""
        if self.stopped:
            return ""
        self._text += piece
        ends = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if ends:
            self._text, self.stopped = self._text[: min(ends)], True
        return self._send(self._num_safe())

    def finish(self, result: GenerationResult) -> Answer:
        """The whole answer's end: text not sent yet, calls of tools, counts."""
        found = read_calls(self._text.strip()) if self._calls else None
        calls = tuple(found or ())
        end = max(self._text.find(OPENING), 0) if calls else len(self._text)
        rest = self._send(max(end, self._num_sent))
        finish = Finish.STOP if result.stopped or self.stopped else Finish.LENGTH
        return Answer(
            rest=rest.rstrip() if calls else rest,
            calls=calls,
            finish=Finish.TOOL_CALLS if calls else finish,
            num_prompt_tokens=result.num_prompt_tokens,
            num_tokens=result.num_tokens,
        )

    def _send(self, end: int) -> str:
        sent = self._text[self._num_sent : end]
        self._num_sent = max(self._num_sent, end)
        return sent

    def _num_safe(self) -> int:
        """Characters of the text that no later piece can make part of something else."""
        text = self._text
        if self._calls and text.lstrip()[:1] in ("", "{"):
            return 0  # perhaps a call that is the whole answer
        if self._calls and (at := text.find(OPENING)) >= 0:
            return len(text[:at].rstrip())
        if self.stopped:
            return len(text)
        marks = [*self._stops, *([OPENING] if self._calls else [])]
        half = max((_num_begun(text, mark) for mark in marks), default=0)
        safe = text[: len(text) - half]
        return len(safe.rstrip()) if self._calls else len(safe)  # white space before a call


def _num_begun(text: str, mark: str) -> int:
    """Characters at the text's end that a mark may begin with."""
    most = min(len(text), len(mark) - 1)
    return next((num for num in range(most, 0, -1) if text.endswith(mark[:num])), 0)
