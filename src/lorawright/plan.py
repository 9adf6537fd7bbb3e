"""Which chats make which optimizer step, fixed before training; and how a step is computed.

    epoch 0   shuffled by (seed, epoch)   7 2 9 4 | 0 8 1 3 | 5 6       B = batch_size = 4
                                          step 0    step 1    step 2    nothing dropped or repeated
    step 0    rank 0:  [7 2 4]  [9]       passes of at most tokens_per_pass tokens
              rank 1:  …                  same number of passes on every rank

The first line is the trajectory: it depends on the config alone. The second is layout: it changes
memory and speed, never a step's chats nor its loss, which is the mean over the step's trained
tokens, all ranks together. Numpy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Pass = tuple[int, ...]
"""Chats, by number, that go through the model together."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Attributes:
        number: Counts from 0 over all epochs.
        chats: Numbers of its chats, in planned order.
        passes: For each rank, its passes; the same number on every rank, some may be empty.
        num_tokens: Tokens of its chats.
        num_trained_tokens: Of these, the trained ones: the loss is their mean.
    """

    number: int
    chats: tuple[int, ...]
    passes: tuple[tuple[Pass, ...], ...]
    num_tokens: int
    num_trained_tokens: int


class Plan:
    """All steps of a run, made one at a time so that a million chats cost one array.

    Args:
        num_tokens_N: Tokens of each of the N chats.
        num_trained_N: Trained tokens of each.
        batch_size: Chats per optimizer step, over all ranks together.
        num_epochs: Passes over the set.
        seed: Of the order.
        tokens_per_pass: Most tokens of one pass; a longer chat has a pass of its own.
        num_ranks: Processes that share a step.
        max_steps: Where to stop before the epochs are over.
    """

    def __init__(
        self,
        num_tokens_N: npt.NDArray[np.int64],
        num_trained_N: npt.NDArray[np.int64],
        *,
        batch_size: int,
        num_epochs: int,
        seed: int,
        tokens_per_pass: int,
        num_ranks: int = 1,
        max_steps: int | None = None,
    ) -> None:
        assert len(num_tokens_N) == len(num_trained_N) > 0
        self.num_tokens_N = num_tokens_N
        self.num_trained_N = num_trained_N
        self.batch_size = batch_size
        self.seed = seed
        self.tokens_per_pass = tokens_per_pass
        self.num_ranks = num_ranks
        self.steps_per_epoch = -(-len(num_tokens_N) // batch_size)
        self.num_steps = self.steps_per_epoch * num_epochs
        if max_steps is not None:
            self.num_steps = min(self.num_steps, max_steps)

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Step]:
        return (self[number] for number in range(self.num_steps))

    def __getitem__(self, number: int) -> Step:
        if not 0 <= number < self.num_steps:
            raise IndexError(number)
        epoch, place = divmod(number, self.steps_per_epoch)
        order = _order(len(self.num_tokens_N), self.seed, epoch)
        chats = order[place * self.batch_size : (place + 1) * self.batch_size]
        return Step(
            number=number,
            chats=tuple(int(chat) for chat in chats),
            passes=lay_out(chats, self.num_tokens_N, self.tokens_per_pass, self.num_ranks),
            num_tokens=int(self.num_tokens_N[chats].sum()),
            num_trained_tokens=int(self.num_trained_N[chats].sum()),
        )

    @property
    def sha256(self) -> str:
        """Of the trajectory: equal for two plans exactly if their steps hold the same chats."""
        digest = hashlib.sha256()
        for number in range(0, self.num_steps, self.steps_per_epoch):
            epoch = number // self.steps_per_epoch
            digest.update(_order(len(self.num_tokens_N), self.seed, epoch).tobytes())
        size = min(self.batch_size, len(self.num_tokens_N))
        digest.update(f"{size} {self.num_steps}".encode())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def _order(num_chats: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    # RandomState's streams are frozen by NumPy's policy (NEP 19): the order survives upgrades.
    state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    return state.permutation(num_chats).astype(np.int64)


def lay_out(
    chats: npt.NDArray[np.int64],
    num_tokens_N: npt.NDArray[np.int64],
    tokens_per_pass: int,
    num_ranks: int = 1,
) -> tuple[tuple[Pass, ...], ...]:
    """Divides a step's chats over ranks and passes.

    Longest first to the rank with the least work, then on each rank first-fit into passes.
    """
    longest_first = sorted((int(c) for c in chats), key=lambda c: (-int(num_tokens_N[c]), c))
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    work = [0] * num_ranks
    for chat in longest_first:
        rank = work.index(min(work))
        shares[rank].append(chat)
        work[rank] += int(num_tokens_N[chat])
    packed = [_pack(share, num_tokens_N, tokens_per_pass) for share in shares]
    most = max(len(passes) for passes in packed)
    return tuple((*passes, *[()] * (most - len(passes))) for passes in packed)


def _pack(
    longest_first: list[int], num_tokens_N: npt.NDArray[np.int64], tokens_per_pass: int
) -> list[Pass]:
    passes: list[list[int]] = []
    room: list[int] = []
    for chat in longest_first:
        length = int(num_tokens_N[chat])
        fit = next((i for i, left in enumerate(room) if length <= left), None)
        if fit is None:
            passes.append([chat])
            room.append(tokens_per_pass - length)
        else:
            passes[fit].append(chat)
            room[fit] -= length
    return [tuple(chats) for chats in passes]


def evaluation_passes(num_tokens_N: npt.NDArray[np.int64], tokens_per_pass: int) -> Iterator[Pass]:
    """All chats of a set once, longest first, in passes of at most `tokens_per_pass` tokens."""
    current: list[int] = []
    num_tokens = 0
    for chat in np.argsort(-num_tokens_N, kind="stable").tolist():
        length = int(num_tokens_N[chat])
        if current and num_tokens + length > tokens_per_pass:
            yield tuple(current)
            current, num_tokens = [], 0
        current.append(chat)
        num_tokens += length
    if current:
        yield tuple(current)
