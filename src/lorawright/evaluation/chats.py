"""A run's config, or another source of chats → its evaluation set: ids, spans and messages.

    chats = eval_chats.load(config, None)          # the run's own evaluation set
    chats = eval_chats.load(config, "other.jsonl") # another file, in any of the row formats

No torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lorawright import data, hub, masks
from lorawright.config.schema import Config, DataSettings, TrainOn
from lorawright.errors import DataError
from lorawright.types import Conversation, EncodedChat, Problem, Role, Severity, Span, Split

MOST_PROOF_ROWS = 32
MOST_PROOF_TOKENS = 4096  # a forward pass of seconds; the figures settle long before


@dataclass(frozen=True, slots=True)
class EvalChat:
    """A chat, or one of its sequences, as messages and as the ids that the model sees.

    Attributes:
        encoded: Ids, and the spans that the run's `train_on` trains.
        conversation: The chat's messages.
        turns: Role and positions of each turn; empty where the template hides turns.
        number: Of the chat, from 0.
        answers: All answers that are not taken out by `train: false`, with the message each is;
            with the chat's first sequence only.
    """

    encoded: EncodedChat
    conversation: Conversation
    turns: tuple[tuple[Role, Span], ...]
    number: int = 0
    answers: tuple[tuple[int, EncodedChat, Span], ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A place in a chat where the assistant answers.

    Attributes:
        chat: The chat.
        turn: Number of the answering message.
        prompt_ids: What the model sees before it answers, the answer's header included.
        answer_ids: The reference, through the token that ends it.
    """

    chat: EvalChat
    turn: int
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [m.for_template() for m in self.chat.conversation.messages[: self.turn]]

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        tools = self.chat.conversation.tools
        return None if tools is None else [dict(tool) for tool in tools]


def load(config: Config, source: str | None) -> list[EvalChat]:
    """The chats of the run's evaluation set, or of another source.

    Args:
        config: The run's.
        source: A file, folder or hub id to read instead; None: what the config says.

    Raises:
        DataError: There is no evaluation set, or a row of it is wrong.
    """
    settings, split = _settings(config, source)
    return list(_read(config, settings, split))


def _read(config: Config, settings: DataSettings, split: Split) -> Iterator[EvalChat]:
    """Row by row: several may start on one line, so that an address does not tell them apart."""
    tokenizer = _tokenizer(config)
    encoder = masks.Encoder(tokenizer, settings)
    every = settings.model_copy(update={"train_on": TrainOn.ASSISTANT, "train_reasoning": True})
    all_answers = None if every == settings else masks.Encoder(tokenizer, every)
    num_chats = 0
    for row in data.stream(settings):
        if isinstance(row, Problem):
            _raise(row)
        elif row.split is split:
            sequences = list(_encoded(encoder, row))
            answers = _answers(all_answers, row, sequences, settings.train_on)
            for one in sequences:
                turns = _turns(one, encoder.markers, row)
                yield EvalChat(one, row, turns, num_chats, () if one.sequence else answers)
            num_chats += bool(sequences)


def _encoded(encoder: masks.Encoder, row: Conversation) -> Iterator[EncodedChat]:
    for item in encoder.run([row]):
        if isinstance(item, Problem):
            _raise(item)
        else:
            yield item


def _answers(
    encoder: masks.Encoder | None,
    row: Conversation,
    trained: Sequence[EncodedChat],
    train_on: TrainOn,
) -> tuple[tuple[int, EncodedChat, Span], ...]:
    """All answers of a chat, or the trained ones where not all can be proven."""
    others = [] if encoder is None else encoder.run([row])
    found = [item for item in others if isinstance(item, EncodedChat)]
    numbers = masks.trained_turns(row, TrainOn.ASSISTANT if found else train_on)
    spans = [(one, span) for one in found or trained for span in one.spans]
    return tuple((number, one, span) for number, (one, span) in zip(numbers, spans, strict=False))


def _tokenizer(config: Config) -> masks.ChatTokenizer:
    folder = hub.tokenizer_folder(config.model.name, config.model.revision)
    return masks.load(folder, config.model.name, config.template)


def _settings(config: Config, source: str | None) -> tuple[DataSettings, Split]:
    """One set is read alone; a fraction of the training set only with all of it."""
    settings = config.data
    if source is None:
        _refuse_if_moved(settings)
    source = source or (settings.eval if isinstance(settings.eval, str) else None)
    if source is not None:
        return settings.model_copy(update={"train": source, "eval": None}), Split.TRAIN
    if settings.eval is None:
        raise DataError(
            "the run has no evaluation set",
            where="data.eval",
            hint="name one: `--data FILE`, a file, folder or hub id that was not trained on",
        )
    return settings, Split.EVAL


def _refuse_if_moved(settings: DataSettings) -> None:
    """A run names its data by whole paths, and data can be moved."""
    name = settings.eval if isinstance(settings.eval, str) else settings.train
    if os.path.isabs(name) and not os.path.lexists(name):
        raise DataError(
            "the run's chats are not there any more",
            where=name,
            hint="if they were moved, name them: `--data FILE`",
        )


def _raise(problem: Problem) -> None:
    if problem.severity is Severity.ERROR:
        raise data.as_error(problem)


def _turns(
    encoded: EncodedChat, markers: masks.TurnMarkers, conversation: Conversation
) -> tuple[tuple[Role, Span], ...]:
    try:
        turns = tuple(masks.turns(encoded.ids, markers, conversation))
    except masks.UnprovenMask:
        return ()  # its trained tokens are counted all the same
    if encoded.num_sequences == 1:
        return turns
    # an answer counts where it is trained, everything else in the chat's last sequence
    is_last = encoded.sequence + 1 == encoded.num_sequences
    others = [turn for turn in turns if is_last and turn[0] is not Role.ASSISTANT]
    return (*others, *((Role.ASSISTANT, span) for span in encoded.spans))


def questions(chats: Sequence[EvalChat]) -> list[Question]:
    """Every answer of every chat that is not taken out by `train: false`."""
    return [
        Question(one, number, read.ids[:start], read.ids[start:end])
        for one in chats
        for number, read, (start, end) in one.answers
    ]


def proof_rows(config: Config, source: str | None) -> list[tuple[int, ...]]:
    """Ids of a few chats to compare models on, spread evenly over the evaluation set.

    Without an evaluation set they are the first of the training set: two models are compared here,
    none is judged.

    Raises:
        DataError: The rows are gone or wrong.
    """
    chosen: list[tuple[int, ...]] = []
    for one in _proof(config, source):
        ids = one.encoded.ids
        if not chosen or sum(map(len, chosen)) + len(ids) <= MOST_PROOF_TOKENS:
            chosen.append(ids)
    return chosen


def proof_conversations(config: Config, source: str | None) -> list[Conversation]:
    """The same chats as messages, all of them."""
    return list({one.number: one.conversation for one in _proof(config, source)}.values())


def _proof(config: Config, source: str | None) -> list[EvalChat]:
    if source is None and config.data.eval is None:
        settings = config.data
        return list(islice(_read(config, settings, Split.TRAIN), MOST_PROOF_ROWS))
    return spread(load(config, source), MOST_PROOF_ROWS)


def spread(items: Sequence[Any], num_items: int) -> list[Any]:
    """At most so many items, evenly over the sequence; the same ones every time."""
    if len(items) <= num_items:
        return list(items)
    return [items[number * len(items) // num_items] for number in range(num_items)]
