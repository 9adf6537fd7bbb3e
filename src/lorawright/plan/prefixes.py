"""Chats of a step → a prefix tree: a shared beginning is computed once a step.

    chat 3   S S S S S a a a            segment 0   S S S S S      chats 3, 5, 8
    chat 5   S S S S S b b              segment 1     a a a        chat 3
    chat 8   S S S S S b b c c          segment 2     b b          chats 5, 8: 5 ends here
                                        segment 3       c c        chat 8

A causal model's hidden state at a token depends on the tokens before it alone, so equal beginnings
have equal states and their gradients add up. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.generic]

MIN_SHARED_TOKENS = 16
"""A shorter beginning costs more in attention calls than it saves; Qwen2.5's own system prompt
has 24 tokens."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of the tree that the same chats go through.

    Attributes:
        chat: The smallest number among its chats; the segment's dropout is drawn as this chat's.
        start: Its first token, counted in the chat.
        end: One past its last.
        parent: Number of the segment before it, -1 at a chat's start.
    """

    chat: int
    start: int
    end: int
    parent: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Tree:
    """All segments of a step.

    Attributes:
        segments: Parents before their children, a child right after its parent where possible.
        paths: Chat → numbers of its segments, first to last.
    """

    segments: tuple[Segment, ...]
    paths: dict[int, tuple[int, ...]]

    @property
    def num_tokens(self) -> int:
        return sum(len(segment) for segment in self.segments)


def grow(chats: Sequence[int], ids: Callable[[int], Ids] | None, lengths: Sequence[int]) -> Tree:
    """The tree of some chats.

    Args:
        chats: Their numbers, each once.
        ids: Token ids of a chat; None: nothing is shared.
        lengths: Tokens of each chat.
    """
    num_tokens = dict(zip(chats, lengths, strict=True))
    order = sorted(chats)
    if ids is None or len(order) == 1:
        alone = tuple(Segment(chat, 0, num_tokens[chat], -1) for chat in order)
        return Tree(alone, {chat: (number,) for number, chat in enumerate(order)})
    return _Grower({chat: np.asarray(ids(chat)) for chat in order}).grow(order)


class _Grower:
    """Depth first: a group of chats, equal up to `known` tokens, written down up to `start`."""

    def __init__(self, ids: dict[int, Ids]) -> None:
        self.ids = ids
        self.segments: list[Segment] = []
        self.paths: dict[int, tuple[int, ...]] = dict.fromkeys(ids, ())

    def grow(self, order: list[int]) -> Tree:
        waiting = [(group, 0, 0, -1) for group in reversed(self._parts(order, 0))]
        while waiting:
            group, start, known, parent = waiting.pop()
            known = self._common(group, known)
            if len(group) == 1 or known - start >= MIN_SHARED_TOKENS:
                parent = self._add(group, start, known, parent)
                start = known
            for part in reversed(self._parts(group, known)):
                waiting.append((part, start, known, parent))
            self._finish([c for c in group if len(self.ids[c]) == known], start, known, parent)
        return Tree(tuple(self.segments), self.paths)

    def _common(self, group: list[int], known: int) -> int:
        """Tokens that all chats of a group have in common, at least `known`."""
        first = self.ids[group[0]]
        common = len(first)
        for chat in group[1:]:
            length = min(common, len(self.ids[chat]))
            differ = first[known:length] != self.ids[chat][known:length]
            common = known + int(differ.argmax()) if differ.any() else length
        return common

    def _parts(self, group: list[int], at: int) -> list[list[int]]:
        """A group by its next token; chats that end here are left out."""
        parts: dict[int, list[int]] = {}
        for chat in group:
            if len(self.ids[chat]) > at:
                parts.setdefault(int(self.ids[chat][at]), []).append(chat)
        return list(parts.values())

    def _add(self, group: list[int], start: int, end: int, parent: int) -> int:
        number = len(self.segments)
        self.segments.append(Segment(group[0], start, end, parent))
        for chat in group:
            self.paths[chat] += (number,)
        return number

    def _finish(self, ended: list[int], start: int, end: int, parent: int) -> None:
        """Chats that end inside a beginning too short to share get what is left for themselves."""
        if ended and start < end:
            for chat in ended:
                self._add([chat], start, end, parent)
