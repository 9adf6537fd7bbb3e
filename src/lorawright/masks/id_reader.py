"""Pieces of rendered chats → their token ids; by tiktoken where rows are many.

    rows 1 … 2,000    by the tokenizer
    rows 2,001 …      by tiktoken, where the tokenizer is of its kind; the first rows of each file,
                      and one of each batch, also by the tokenizer, and compared

A table of ranks takes 0.7 s to make, as long as the tokenizer takes for some 2,000 chats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lorawright.errors import TemplateError
from lorawright.masks import pieces
from lorawright.masks.byte_level_bpe import ByteLevelBpe
from lorawright.masks.derive import UnprovenMask
from lorawright.masks.pieces import Piece
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.types import Conversation

NUM_PLAIN = 2_000
NUM_COMPARED = 8  # rows of each file, once tiktoken is used

Ids = list[list[int]] | UnprovenMask
"""The ids of each piece of a chat, or why they cannot be told."""


class IdReader:
    """Reads the pieces of one run's chats.

    Args:
        tokenizer: The model's.
        num_plain: Rows before tiktoken is tried.
    """

    def __init__(self, tokenizer: ChatTokenizer, num_plain: int = NUM_PLAIN) -> None:
        self._plain = replace(tokenizer, bpe=None)
        self._tokenizer = tokenizer
        self._num_plain = num_plain
        self._num_read = 0
        self._is_tried = tokenizer.bpe is not None
        self._num_seen: Counter[str] = Counter()
        self._is_handed_on = False

    def read(self, chats: Sequence[Conversation], layouts: Sequence[Sequence[Piece]]) -> list[Ids]:
        """The ids of some chats' pieces.

        Args:
            chats: The rows.
            layouts: The pieces of each.

        Raises:
            TemplateError: tiktoken's ids are others, and some of them were handed on already.
        """
        if not self._is_tried and self._num_read >= self._num_plain:
            self._is_tried = True
            self._tokenizer = replace(self._plain, bpe=ByteLevelBpe.of(self._plain.backend))
        self._num_read += len(chats)
        found = pieces.encode(self._tokenizer, layouts)
        if self._tokenizer.bpe is None:
            return found
        wrong = self._first_wrong(chats, layouts, found)
        if wrong is None:
            self._is_handed_on = True
            return found
        if self._is_handed_on:
            raise TemplateError(
                f"tiktoken gives other ids than its tokenizer for the chat at {wrong.where}",
                where=self._plain.name,
                hint="this is a fault of lorawright; open an issue with the model's name and the "
                "chat",
            )
        self._tokenizer = self._plain
        return pieces.encode(self._plain, layouts)

    def _first_wrong(
        self,
        chats: Sequence[Conversation],
        layouts: Sequence[Sequence[Piece]],
        found: Sequence[Ids],
    ) -> Conversation | None:
        compared = []
        for number, chat in enumerate(chats):
            self._num_seen[chat.file] += 1
            if number == 0 or self._num_seen[chat.file] <= NUM_COMPARED:
                compared.append(number)
        expected = pieces.encode(self._plain, [layouts[number] for number in compared])
        for number, ids in zip(compared, expected, strict=True):
            if isinstance(ids, list) and ids != found[number]:
                return chats[number]
        return None
