"""Chat → the answers that are trained, each behind the prompt that inference sees: derivation A.

    one line     P1 A1 P2 A2 P3 A3        each prompt goes on where the last answer ended
    several      P1 A1                    A1's <think>…</think> is gone from the next prompt
                 P1 a1 p2 A2

For answer j the prompt is the chat before it, rendered with the generation prompt, and the target
is what the same template puts behind that for it, through a stop token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jinja2

from lorawright.config.schema import TrainOn
from lorawright.masks import reasoning
from lorawright.masks.derive import UnprovenMask, trained_turns
from lorawright.masks.texts import clip, parting
from lorawright.masks.tokenizer import ChatTokenizer, Rendering
from lorawright.masks.turn_markers import TurnMarkers
from lorawright.types import Conversation, Message, Span

PROMPT_HINT = (
    "give the answer as the template writes it (with or without `reasoning_content`, see "
    "`template.variables`), leave such rows out with `data.invalid: drop`, or train a model whose "
    "template has no reasoning"
)
STOP_HINT = (
    "leave such rows out with `data.invalid: drop`, or train a model whose template ends all "
    "answers alike"
)
ALL_HINT = "set `data.train_on: assistant`: then each answer is trained as inference renders it"


@dataclass(frozen=True, slots=True)
class TextView:
    """Derivation A of one sequence: its text and the trained stretches.

    Attributes:
        text: The chat, rendered whole, or up to the last answer that is trained here.
        trained: Character ranges that are trained, in order, none touching another.
        answers: The answers that are trained here, reasoning and stop token included.
        cuts: Positions where the text is cut before it is tokenized.
        numbers: The messages that the answers are.
        is_whole: Whether the text is the chat, rendered whole.
    """

    text: str
    trained: tuple[Span, ...]
    answers: tuple[Span, ...]
    cuts: tuple[int, ...]
    numbers: tuple[int, ...] = ()
    is_whole: bool = True

    def split(self, first: int) -> tuple[TextView, TextView]:
        """Two sequences of the same text: the answers before one, and those from it on."""
        return self._part(slice(first)), self._part(slice(first, None))

    def _part(self, which: slice) -> TextView:
        answers = self.answers[which]
        edges = range(answers[0][0], answers[-1][1] + 1)
        return TextView(
            self.text[: edges[-1]],
            tuple(span for span in self.trained if span[0] in edges),
            answers,
            tuple(cut for cut in self.cuts if cut in edges),
            self.numbers[which],
            is_whole=False,
        )


@dataclass(frozen=True, slots=True)
class ChatView:
    """Derivation A of a chat: its text, rendered whole, and the sequences that it becomes."""

    text: str
    sequences: tuple[TextView, ...]

    @property
    def targets(self) -> dict[int, str]:
        """The text of each trained answer, by its message's number."""
        return {
            number: view.text[start:end]
            for view in self.sequences
            for number, (start, end) in zip(view.numbers, view.answers, strict=True)
        }


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as inference sees it: its prompt, what follows, how much of that is only read."""

    number: int
    prompt: str
    target: str
    num_read: int

    @property
    def said(self) -> str:
        return self.prompt + self.target


def by_text(
    tokenizer: ChatTokenizer,
    markers: TurnMarkers,
    conversation: Conversation,
    train_on: TrainOn,
    *,
    train_reasoning: bool = True,
) -> ChatView:
    """Derivation A.

    Raises:
        UnprovenMask: An answer does not stand behind the prompt that it is asked with.
        jinja2.TemplateError: The template refuses the chat.
    """
    rendering = tokenizer.rendering(
        conversation.messages, conversation.tools, conversation.variables
    )
    text = rendering.upto(len(conversation.messages))
    reader = _Reader(tokenizer, markers, rendering, conversation.messages, text, train_reasoning)
    answers = [reader.answer(number) for number in trained_turns(conversation, train_on)]
    sequences = tuple(_sequences(answers, text))
    if train_on is TrainOn.ALL:
        sequences = (_all_trained(rendering, conversation, text, sequences),)
    return ChatView(text, sequences)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Finds the answers of one chat in what its template renders."""

    tokenizer: ChatTokenizer
    markers: TurnMarkers
    rendering: Rendering
    messages: Sequence[Message]
    text: str
    train_reasoning: bool

    def answer(self, index: int) -> _Answer:
        """What a model is asked for an answer, and what follows, through a stop token."""
        path, message = f"messages[{index}]", self.messages[index]
        if not index:
            raise UnprovenMask(path, "an answer without anything before it has no prompt")
        prompt = self.rendering.upto(index, generation_prompt=True)
        is_last = index + 1 == len(self.messages)
        upto = self.text if is_last else self.rendering.upto(index + 1)
        body = self._behind(index, prompt, upto)
        if body is None:
            raise UnprovenMask(
                path,
                "is rendered by this model's template otherwise than the prompt it is asked with: "
                + parting(prompt, upto),
                PROMPT_HINT,
            )
        target = self._through_stop(path, body, message)
        num_read = 0 if self.train_reasoning else reasoning.num_read(target, message)
        if num_read is None:
            raise UnprovenMask(
                path,
                "has reasoning whose end is not found in what this model's template renders",
                "write it as `reasoning_content`, or set `data.train_reasoning: true`",
            )
        return _Answer(index, prompt, target, num_read)

    def _behind(self, index: int, prompt: str, upto: str) -> str | None:
        """What stands behind the prompt once the answer is there; None if that cannot be told.

        Some templates render what is before otherwise once the answer is there (Mistral writes the
        system message before the last question, gpt-oss drops the reasoning of a call that is
        answered): then the last question, through the prompt's end, is looked for.
        """
        if upto.startswith(prompt):
            return upto[len(prompt) :]
        with contextlib.suppress(jinja2.TemplateError):  # of a part of the chat: nothing is told
            before = self.rendering.before_answer(index)
            for question in self._last_question(index, prompt):
                at = before.rfind(question)
                end = at + len(question)
                if at >= 0 and upto.startswith(before[:end]):
                    return upto[end:]
        return None

    def _last_question(self, index: int, prompt: str) -> Iterator[str]:
        """A prompt from the last message's text on, or from its turn on where it is escaped."""
        asked = (self.messages[index - 1].content or "").strip()
        if asked and asked in prompt:
            yield prompt[prompt.rfind(asked) :]
        earlier = self.rendering.upto(index - 1) if index > 1 else ""
        if earlier and prompt.startswith(earlier):
            yield prompt[len(earlier) :]

    def _through_stop(self, path: str, body: str, message: Message) -> str:
        markers = self.markers
        stop = markers.find_stop(body)
        if stop is None and markers.follow:
            body += markers.follow_call if message.tool_calls else markers.follow
            stop = markers.find_stop(body)
        if stop is None:
            raise UnprovenMask(
                path,
                f"is ended by this model's template with {body[-30:]!r}, expected a stop token as "
                f"in {markers.end!r} behind its other answers",
                STOP_HINT,
            )
        rest = body[stop.end() :]
        rest = "" if rest == markers.tail else self._without_tokens(rest)
        if rest:
            raise UnprovenMask(
                path,
                f"goes on behind the stop token {stop.group()!r}: {clip(rest)}",
                STOP_HINT,
            )
        return body[: stop.end()]

    def _without_tokens(self, text: str) -> str:
        """Text behind an answer's end; white space and tokens are the template's."""
        if text.strip():
            for token in sorted(self.tokenizer.added_ids, key=len, reverse=True):
                text = text.replace(token, "")
        return text.strip()


def _sequences(answers: Sequence[_Answer], text: str) -> Iterator[TextView]:
    """Answers on one line are one sequence: each prompt begins with all up to the last answer."""
    if not answers:
        yield TextView(text, (), (), ())
        return
    lines = [[answers[0]]]
    for answer in answers[1:]:
        if answer.prompt.startswith(lines[-1][-1].said):
            lines[-1].append(answer)
        else:
            lines.append([answer])
    for line in lines:
        is_whole = len(lines) == 1 and text.startswith(line[-1].said)
        yield _view(line, text if is_whole else line[-1].said, is_whole)


def _view(line: Sequence[_Answer], text: str, is_whole: bool) -> TextView:
    spans = [(len(one.prompt), len(one.said)) for one in line]
    trained = [(start + one.num_read, end) for one, (start, end) in zip(line, spans, strict=True)]
    edges = {edge for span in (*spans, *trained) for edge in span}
    numbers = tuple(one.number for one in line)
    return TextView(text, tuple(trained), tuple(spans), tuple(sorted(edges)), numbers, is_whole)


def _all_trained(
    rendering: Rendering, conversation: Conversation, text: str, sequences: Sequence[TextView]
) -> TextView:
    """The whole text but for untrained messages; it must be what inference sees everywhere."""
    if len(sequences) > 1 or not sequences[0].is_whole:
        raise UnprovenMask(
            "messages",
            "is rendered otherwise in later prompts than in its answers, so that there is no one "
            "text to train all of",
            ALL_HINT,
        )
    view = sequences[0]
    trained: list[Span] = []
    position = 0
    for start, end in _untrained_messages(rendering, conversation, text):
        trained.append((position, start))
        position = end
    trained.append((position, len(text)))
    trained = [span for span in trained if span[0] < span[1]]
    edges = {edge for span in (*view.answers, *trained) for edge in span}
    cuts = tuple(sorted(edges - {0, len(text)}))
    return TextView(text, tuple(trained), view.answers, cuts, view.numbers)


def _untrained_messages(rendering: Rendering, conversation: Conversation, text: str) -> list[Span]:
    """Whole turns, header and tail included, of messages with `train: false`."""
    spans: list[Span] = []
    for index, message in enumerate(conversation.messages):
        if message.train is not False:
            continue
        before = rendering.upto(index) if index else ""
        upto = rendering.upto(index + 1)
        if not (text.startswith(before) and text.startswith(upto)):
            raise UnprovenMask(
                f"messages[{index}]", "is not a stretch of its own in the rendered chat"
            )
        spans.append((len(before), len(upto)))
    return spans
