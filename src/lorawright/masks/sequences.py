"""Chats by text → sequences of ids with proven spans, a batch at a time.

    view of a sequence ─► pieces ─► ids ─┬─ the ids before each answer are those of its prompt, read
                                         │  as a whole; else the sequence is cut in two there
                                         └─ by headers, or by stop tokens: the same spans

So ids are what inference reads, whatever the cuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lorawright.config.schema import TrainOn
from lorawright.masks import derive, pieces
from lorawright.masks.answers import ChatView, TextView
from lorawright.masks.derive import UnprovenMask
from lorawright.masks.id_reader import IdReader, Ids
from lorawright.masks.pieces import Piece
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.masks.turn_markers import TurnMarkers
from lorawright.types import Conversation, Span

Row = tuple[Conversation, ChatView]


@dataclass(frozen=True, slots=True)
class ReadSequence:
    """A sequence of a chat, read.

    Attributes:
        view: Its text and what of it is trained.
        pieces: The text in pieces.
        ids_of_pieces: The ids of each.
        ids: All of them.
        spans: Token ranges that are trained, by text.
        answers: Token ranges of the answers, by text.
    """

    view: TextView
    pieces: list[Piece]
    ids_of_pieces: list[list[int]]
    ids: list[int]
    spans: list[Span]
    answers: list[Span]

    @classmethod
    def of(cls, view: TextView, layout: list[Piece], ids: list[list[int]]) -> ReadSequence:
        """The sequence of a view, from the ids of its pieces."""
        answers = pieces.spans(layout, ids, answers=True)
        spans = answers if view.trained == view.answers else pieces.spans(layout, ids)
        return cls(view, layout, ids, list(itertools.chain.from_iterable(ids)), spans, answers)

    @property
    def num_kept_apart(self) -> int:
        """Answers that start with white space: cut from their header."""
        before = [False, *(piece.is_answer for piece in self.pieces)]
        return sum(
            piece.is_answer and not was_answer and piece.text[:1].isspace()
            for was_answer, piece in zip(before, self.pieces, strict=False)
        )


class SequenceReader:
    """Reads and proves the sequences of a run's chats.

    Args:
        tokenizer: The model's.
        markers: Of its template.
        train_on: What is trained.
    """

    def __init__(self, tokenizer: ChatTokenizer, markers: TurnMarkers, train_on: TrainOn) -> None:
        self._tokenizer, self.markers, self._train_on = tokenizer, markers, train_on
        self._ids = IdReader(tokenizer)

    def read(self, rows: Sequence[Row]) -> list[list[ReadSequence] | UnprovenMask]:
        """The sequences of some chats, proven, or why one cannot be."""
        views = [(number, view) for number, (_, chat) in enumerate(rows) for view in chat.sequences]
        layouts = [pieces.layout(view) for _, view in views]
        ids = self._ids.read([rows[number][0] for number, _ in views], layouts)
        wrong = self._read_otherwise([view for _, view in views], layouts, ids)
        found: list[list[ReadSequence] | UnprovenMask] = [[] for _ in rows]
        for (number, view), layout, ids_of_pieces, answer in zip(
            views, layouts, ids, wrong, strict=True
        ):
            earlier = found[number]
            if isinstance(earlier, UnprovenMask):
                continue
            try:
                earlier += self._proven(rows[number][0], view, layout, ids_of_pieces, answer)
            except UnprovenMask as refusal:
                found[number] = refusal
        return found

    def _proven(
        self,
        chat: Conversation,
        view: TextView,
        layout: list[Piece],
        ids: Ids,
        wrong: int | None,
    ) -> list[ReadSequence]:
        """The sequence, or several where no single one has the ids of all prompts."""
        joins = isinstance(ids, UnprovenMask)
        if (joins or wrong) and len(view.answers) > 1 and self._train_on is not TrainOn.ALL:
            return [
                one for part in view.split(wrong or 1) for one in self._proven_alone(chat, part)
            ]
        if isinstance(ids, UnprovenMask):
            raise ids
        read = ReadSequence.of(view, layout, ids)
        self._prove(chat, read)
        return [read]

    def _proven_alone(self, chat: Conversation, view: TextView) -> list[ReadSequence]:
        layout = pieces.layout(view)
        (ids,) = pieces.encode(self._tokenizer, [layout])
        (wrong,) = self._read_otherwise([view], [layout], [ids])
        return self._proven(chat, view, layout, ids, wrong)

    def _read_otherwise(
        self, views: Sequence[TextView], layouts: Sequence[list[Piece]], found: Sequence[Ids]
    ) -> list[int | None]:
        """For each sequence the first answer whose prompt, as a whole, has other ids."""
        wanted = [
            (number, *prompt)
            for number, (view, layout) in enumerate(zip(views, layouts, strict=True))
            if len(view.answers) > 1
            for prompt in pieces.prompts(
                self._tokenizer, layout, always=not self._has_counted_headers(view)
            )
        ]
        wrong: list[int | None] = [None] * len(views)
        read = pieces.encode(self._tokenizer, [prompt for *_, prompt in wanted])
        for (number, answer, _), ids in zip(wanted, read, strict=True):
            ours = found[number]
            if wrong[number] is None and isinstance(ours, list) and isinstance(ids, list):
                start = pieces.spans(layouts[number], ours, answers=True)[answer][0]
                if list(itertools.chain(*ids)) != list(itertools.chain(*ours))[:start]:
                    wrong[number] = answer
        return wrong

    def _has_counted_headers(self, view: TextView) -> bool:
        return self.markers.counts_headers and view.is_whole

    def _prove(self, chat: Conversation, read: ReadSequence) -> None:
        """Derivation B against A.

        Raises:
            UnprovenMask: They differ, or the ids are not those that a model would generate.
        """
        ids, is_all = read.ids, self._train_on is TrainOn.ALL
        by_text = read.spans if is_all else read.answers
        if is_all:
            by_ids = derive.by_ids(ids, self.markers, chat, self._train_on)
        else:
            by_ids = self._by_headers(chat, read) or self._by_stops(read)
        if by_ids[:1] and by_ids[0][0] == 0:
            by_ids[0] = (1, by_ids[0][1])
        if by_text != by_ids:
            what = f"by text {self._shown(ids, by_text)}, by ids {self._shown(ids, by_ids)}"
            raise UnprovenMask("messages", f"the two derivations of the mask disagree: {what}")
        if not is_all and not pieces.reads_as_one(self._tokenizer, read.pieces, read.ids_of_pieces):
            raise UnprovenMask("messages", MERGED, MERGED_HINT)

    def _by_headers(self, chat: Conversation, read: ReadSequence) -> list[Span] | None:
        """None where an answer has several headers, or a row's own variables change them."""
        if not self._has_counted_headers(read.view):
            return None
        try:
            return derive.by_ids(read.ids, self.markers, chat, self._train_on)
        except UnprovenMask:
            return None

    def _by_stops(self, read: ReadSequence) -> list[Span]:
        """Answer by answer: its prompt's ids, read as a whole, and its one stop token."""
        self._refuse_other_prompts(read)
        derive.by_stops(read.ids, read.answers, self.markers)
        return list(read.answers)

    def _refuse_other_prompts(self, read: ReadSequence) -> None:
        for answer, prompt in pieces.prompts(self._tokenizer, read.pieces, always=True):
            (ids,) = pieces.encode(self._tokenizer, [prompt])
            start = read.answers[answer][0]
            if not isinstance(ids, list) or list(itertools.chain(*ids)) != read.ids[:start]:
                raise UnprovenMask(
                    f"messages[{read.view.numbers[answer]}]",
                    "has other ids before it than its prompt read as a whole",
                )

    def _shown(self, ids: list[int], spans: list[Span]) -> str:
        texts = [self._tokenizer.decode(ids[start:end]) for start, end in spans[:2]]
        return " | ".join(repr(text[:60]) for text in texts) or "nothing"


MERGED = (
    "its tokenizer joins the end of the reasoning with what follows: no ids are the answer's alone"
)
MERGED_HINT = "leave such rows out with `data.invalid: drop`, or set `data.train_reasoning: true`"
