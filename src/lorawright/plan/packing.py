"""Segments of a step → passes, rank by rank: how a step is computed.

    all of it fits one pass           [S a b c]

    it does not                       COLLECT  [S]          keys and values of S, no gradient
                                      PLAIN    [a] [b c]    attend to them, collect their gradient
                                      INJECT   [S]          S again, with the collected gradient

The layout changes memory and speed, never a step's loss or gradient. A segment that several passes
of a rank need costs one pass forward and one with gradient, however many passes use it; memory
stays that of one pass. Every rank has the same number and kinds of passes, some of them empty:
sharded weights are gathered by all ranks together. Numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lorawright.plan.prefixes import Tree

MIN_SAVED_TOKENS = 256
"""Two more passes read all weights twice: on a CPU that is worth about so many tokens."""


class PassKind(StrEnum):
    """What a pass does besides its own trained tokens."""

    PLAIN = "plain"  # nothing
    COLLECT = "collect"  # keeps keys and values of a prefix, forward only
    INJECT = "inject"  # gives a prefix the gradient that other passes have left


@dataclass(frozen=True, slots=True)
class Pass:
    """Segments that go through the model together.

    Attributes:
        kind: What it does.
        segments: Numbers in the step's tree, parents before children.
        chats: Chats of this rank that have trained tokens to find in these segments.
        before: Segments whose keys and values come from the COLLECT pass, in its order.
        num_tokens: Of the segments.
    """

    kind: PassKind
    segments: tuple[int, ...] = ()
    chats: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    num_tokens: int = 0


def lay_out(tree: Tree, tokens_per_pass: int, num_ranks: int = 1) -> tuple[tuple[Pass, ...], ...]:
    """Divides a step over ranks and passes.

    Args:
        tree: The step's chats.
        tokens_per_pass: Most tokens of one pass; a longer chat has a pass of its own.
        num_ranks: Processes.

    Returns:
        For each rank its passes, equally many on each.
    """
    shares = [_Share(tree, chats, tokens_per_pass) for chats in _divide(tree, num_ranks)]
    most = max(len(share.bins) for share in shares)
    collects = any(share.common for share in shares)
    return tuple(share.passes(most, collects) for share in shares)


def _longest_first(tree: Tree, chats: Iterable[int]) -> list[int]:
    length = {chat: tree.segments[path[-1]].end for chat, path in tree.paths.items()}
    return sorted(chats, key=lambda chat: (-length[chat], chat))


def _divide(tree: Tree, num_ranks: int) -> list[list[int]]:
    """Longest chat first to the rank that has the least work with it, shared segments once."""
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    taken: list[set[int]] = [set() for _ in range(num_ranks)]
    work = [0] * num_ranks
    for chat in _longest_first(tree, tree.paths):
        after = [work[rank] + _added(tree, chat, taken[rank]) for rank in range(num_ranks)]
        rank = after.index(min(after))
        shares[rank].append(chat)
        taken[rank].update(tree.paths[chat])
        work[rank] = after[rank]
    return shares


def _added(tree: Tree, chat: int, present: set[int]) -> int:
    """Tokens that a chat adds to the segments that are there."""
    return sum(len(tree.segments[n]) for n in tree.paths[chat] if n not in present)


class _Share:
    """One rank's part of a step."""

    def __init__(self, tree: Tree, chats: list[int], tokens_per_pass: int) -> None:
        self.tree = tree
        self.chats = chats
        self.bins = _fill(tree, chats, set(), tokens_per_pass)
        self.common = _common(tree, self.bins, tokens_per_pass)
        if self.common:
            self.bins = _fill(tree, chats, self.common, tokens_per_pass)

    def passes(self, num_bins: int, collects: bool) -> tuple[Pass, ...]:
        before = tuple(sorted(self.common))
        plain = [self._plain(chats, before) for chats in self.bins]
        plain += [Pass(PassKind.PLAIN)] * (num_bins - len(plain))
        if not collects:
            return tuple(plain)
        size = sum(len(self.tree.segments[n]) for n in before)
        chats = tuple(sorted(self.chats)) if before else ()
        collect = Pass(PassKind.COLLECT, before, num_tokens=size)
        inject = Pass(PassKind.INJECT, before, chats, num_tokens=size)
        return (collect, *plain, inject)

    def _plain(self, chats: list[int], before: tuple[int, ...]) -> Pass:
        own = sorted({n for chat in chats for n in self.tree.paths[chat]} - self.common)
        size = sum(len(self.tree.segments[n]) for n in own)
        return Pass(PassKind.PLAIN, tuple(own), tuple(chats), before, size)


def _fill(tree: Tree, chats: list[int], common: set[int], tokens_per_pass: int) -> list[list[int]]:
    """Chats into passes: longest first, to where it fits and adds the fewest tokens."""
    bins: list[list[int]] = []
    present: list[set[int]] = []
    room: list[int] = []
    for chat in chats:
        added = [_added(tree, chat, segments) for segments in present]
        fits = [i for i, tokens in enumerate(added) if tokens <= room[i]]
        if fits:
            best = min(fits, key=lambda i: (added[i], i))
        elif _added(tree, chat, common) == 0:
            continue  # wholly inside the common segments, which have passes of their own
        else:
            best = len(bins)
            bins.append([])
            present.append(set(common))
            room.append(tokens_per_pass)
            added.append(_added(tree, chat, common))
        bins[best].append(chat)
        present[best].update(tree.paths[chat])
        room[best] -= added[best]
    return bins


def _common(tree: Tree, bins: list[list[int]], tokens_per_pass: int) -> set[int]:
    """Segments worth passes of their own: in at least two passes, all of them within one pass.

    A parent is in every pass its children are in, so with a segment its parents are there too.
    """
    uses: dict[int, int] = {}
    for chats in bins:
        for number in {n for chat in chats for n in tree.paths[chat]}:
            uses[number] = uses.get(number, 0) + 1
    shared = sorted((n for n, count in uses.items() if count > 1), key=lambda n: (-uses[n], n))
    common: set[int] = set()
    room = tokens_per_pass
    for number in shared:
        segment = tree.segments[number]
        if len(segment) <= room and (segment.parent < 0 or segment.parent in common):
            common.add(number)
            room -= len(segment)
    # in place of one pass a use: one forward, and one forward and backward
    saved = sum(len(tree.segments[n]) * (uses[n] - 1.5) for n in common)
    return common if saved >= MIN_SAVED_TOKENS else set()
