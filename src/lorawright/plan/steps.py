"""Chat lengths and a seed → which chats make which optimizer step, fixed before training.

    epoch 0   shuffled by (seed, epoch)   7 2 9 4 | 0 8 1 3 | 5 6       B = batch_size = 4
                                          step 0    step 1    step 2    nothing dropped or repeated
    step 0    its tree of segments        [7 2 4]  [9]                  laid out in passes, rank by
                                                                        rank (layout.py)

A chat is one sequence, or several (see `types.EncodedChat`), which stay together in a step; trees
and passes are made of sequences.

The first line is the trajectory: it depends on the config alone. The layout changes memory and
speed, never a step's chats nor its loss, which is the mean over the step's trained tokens, all
ranks together. Numpy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lorawright.plan import prefixes
from lorawright.plan.packing import Pass, lay_out
from lorawright.plan.prefixes import Ids, Tree

GROUP_LEVELS = (16, 64, 256, 1024, 4096)
"""Tokens in common, from loose to close, by which chats are brought together."""


class Order(StrEnum):
    """How an epoch's chats are ordered."""

    SHUFFLED = "shuffled"  # at random, by the seed
    GROUPED = "grouped"  # chats that begin alike in the same steps


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, or as many chats of an evaluation.

    Attributes:
        number: Counts from 0 over all epochs.
        sequences: Numbers of its chats' sequences, chat by chat in planned order.
        tree: Their segments.
        passes: For each rank, its passes; the same number and kinds on every rank.
        num_tokens: Tokens of its sequences.
        num_trained_tokens: Of these, the trained ones: the loss is their mean.
    """

    number: int
    sequences: tuple[int, ...]
    tree: Tree
    passes: tuple[tuple[Pass, ...], ...]
    num_tokens: int
    num_trained_tokens: int

    @property
    def num_computed_tokens(self) -> int:
        """Tokens that go through the model, all ranks and passes together."""
        return sum(one.num_tokens for rank in self.passes for one in rank)


class Plan:
    """All steps of a run, made one at a time so that a million chats cost one array.

    Args:
        num_tokens_N: Tokens of each of the N sequences.
        num_trained_N: Trained tokens of each.
        starts_C: The first sequence of each of the C chats; None: every chat is one.
        batch_size: Chats per optimizer step, over all ranks together.
        num_epochs: Passes over the set.
        seed: Of the order.
        tokens_per_pass: Most tokens of one pass; a longer chat has a pass of its own.
        ids: Token ids of a sequence; only SHUFFLED order without sharing does without.
        sharing: Whether what sequences of a step begin with is one segment.
        order: How an epoch is ordered.
        num_ranks: Processes that share a step.
        max_steps: Where to stop before the epochs are over.
    """

    def __init__(
        self,
        num_tokens_N: npt.NDArray[np.int64],
        num_trained_N: npt.NDArray[np.int64],
        *,
        starts_C: npt.NDArray[np.int64] | None = None,
        batch_size: int,
        num_epochs: int,
        seed: int,
        tokens_per_pass: int,
        ids: Callable[[int], Ids] | None = None,
        sharing: bool = True,
        order: Order = Order.SHUFFLED,
        num_ranks: int = 1,
        max_steps: int | None = None,
    ) -> None:
        assert len(num_tokens_N) == len(num_trained_N) > 0
        self.num_tokens_N = num_tokens_N
        self.num_trained_N = num_trained_N
        self.starts_C = np.arange(len(num_tokens_N)) if starts_C is None else starts_C
        self.batch_size = batch_size
        self.seed = seed
        self.tokens_per_pass = tokens_per_pass
        self.shared_ids = ids if sharing else None
        self.num_ranks = num_ranks
        self.groups_LC = None if order is Order.SHUFFLED else _groups(self.starts_C, ids)
        self.steps_per_epoch = -(-self.num_chats // batch_size)
        self.num_steps = self.steps_per_epoch * num_epochs
        if max_steps is not None:
            self.num_steps = min(self.num_steps, max_steps)
        self._epoch = lru_cache(maxsize=2)(self._order_of_epoch)

    @property
    def num_chats(self) -> int:
        return len(self.starts_C)

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Step]:
        return (self[number] for number in range(self.num_steps))

    def __getitem__(self, number: int) -> Step:
        return self._step(number, self.chats(number))

    def chats(self, number: int) -> npt.NDArray[np.int64]:
        """Chats of a step by their numbers, in planned order."""
        if not 0 <= number < self.num_steps:
            raise IndexError(number)
        epoch, place = divmod(number, self.steps_per_epoch)
        return self._epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def sequences(self, chats: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """All sequences of some chats, chat by chat."""
        ends_C = np.append(self.starts_C[1:], len(self.num_tokens_N))
        counts = ends_C[chats] - self.starts_C[chats]
        first = np.repeat(self.starts_C[chats], counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        sequences: npt.NDArray[np.int64] = first + within
        return sequences

    def evaluation(self) -> Iterator[Step]:
        """All chats once, longest first, so many at a time as a step has."""
        order = np.argsort(-np.add.reduceat(self.num_tokens_N, self.starts_C), kind="stable")
        for number, start in enumerate(range(0, len(order), self.batch_size)):
            yield self._step(number, order[start : start + self.batch_size])

    def _step(self, number: int, chats: npt.NDArray[np.int64]) -> Step:
        rows = self.sequences(chats)
        numbers = tuple(int(row) for row in rows)
        tree = prefixes.grow(numbers, self.shared_ids, self.num_tokens_N[rows].tolist())
        return Step(
            number=number,
            sequences=numbers,
            tree=tree,
            passes=lay_out(tree, self.tokens_per_pass, self.num_ranks),
            num_tokens=int(self.num_tokens_N[rows].sum()),
            num_trained_tokens=int(self.num_trained_N[rows].sum()),
        )

    @property
    def sha256(self) -> str:
        """Of the trajectory: equal for two plans exactly if their steps hold the same chats."""
        digest = hashlib.sha256()
        for number in range(0, self.num_steps, self.steps_per_epoch):
            digest.update(self._epoch(number // self.steps_per_epoch).tobytes())
        size = min(self.batch_size, self.num_chats)
        digest.update(f"{size} {self.num_steps}".encode())
        return digest.hexdigest()

    def _order_of_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        # RandomState's streams are frozen by NumPy's policy (NEP 19): the order survives upgrades.
        seeds = np.random.SeedSequence([self.seed, epoch])
        state = np.random.RandomState(np.random.MT19937(seeds))
        shuffled: npt.NDArray[np.int64] = state.permutation(self.num_chats).astype(np.int64)
        if self.groups_LC is None:
            return shuffled
        return self._steps_shuffled(self._grouped(shuffled, state), state)

    def _grouped(
        self, shuffled: npt.NDArray[np.int64], state: np.random.RandomState
    ) -> npt.NDArray[np.int64]:
        """Random at each level of the groups: groups, groups inside groups, then chats."""
        assert self.groups_LC is not None
        keys = [np.arange(len(shuffled))]
        for groups_C in self.groups_LC[::-1]:
            place = state.permutation(int(groups_C.max()) + 1)
            keys.append(place[groups_C[shuffled]])
        return shuffled[np.lexsort(keys)]

    def _steps_shuffled(
        self, order: npt.NDArray[np.int64], state: np.random.RandomState
    ) -> npt.NDArray[np.int64]:
        """Whole steps in random order; the last one stays last, it may be short."""
        size = self.batch_size
        full = order[: len(order) // size * size].reshape(-1, size)
        return np.concatenate([state.permutation(full).ravel(), order[full.size :]])


def _groups(
    starts_C: npt.NDArray[np.int64], ids: Callable[[int], Ids] | None
) -> npt.NDArray[np.int64]:
    """For each level, the number of each chat's group: chats with equal first tokens."""
    assert ids is not None, "grouping needs token ids"
    groups_LC = np.zeros((len(GROUP_LEVELS), len(starts_C)), dtype=np.int64)
    seen: list[dict[bytes, int]] = [{} for _ in GROUP_LEVELS]
    for chat, start in enumerate(starts_C.tolist()):
        whole = np.asarray(ids(start))
        for level, num_tokens in enumerate(GROUP_LEVELS):
            digest = hashlib.blake2b(whole[:num_tokens].tobytes(), digest_size=16).digest()
            groups_LC[level, chat] = seen[level].setdefault(digest, len(seen[level]))
    return groups_LC
