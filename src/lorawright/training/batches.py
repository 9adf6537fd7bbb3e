"""A planned step → tensors: what the data loader hands to the trainer.

Shapes: B is 1, a pass is one row; T its tokens; P its trained positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lorawright.dataset.store import ChatStore
from lorawright.model import attention
from lorawright.model.attention import PassShape, Prefixes, SharedKeys
from lorawright.plan.attention import PACKED
from lorawright.plan.packing import Pass, PassKind
from lorawright.plan.prefixes import Tree
from lorawright.plan.steps import Plan, Step


class StepDataset(Dataset[dict[str, Any]]):
    """The plan as a torch data set: item s is optimizer step s, its passes as tensors."""

    def __init__(self, plan: Plan, store: ChatStore, rank: int, implementation: str) -> None:
        self.plan, self.store, self.rank = plan, store, rank
        self.implementation = implementation

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> dict[str, Any]:
        step = self.plan[number]
        return {
            "number": number,
            "kinds": [one.kind for one in step.passes[self.rank]],
            "drawn": [drawn(one, step.tree) for one in step.passes[self.rank]],
            "passes": step_tensors(step, self.rank, self.store, self.implementation),
            "num_tokens": step.num_tokens,
            "num_trained_tokens": step.num_trained_tokens,
        }


def step_tensors(
    step: Step, rank: int, store: ChatStore, implementation: str
) -> list[dict[str, Any]]:
    """The tensors of one rank's passes; they share one place for common keys."""
    shared = SharedKeys()
    return [
        pass_tensors(one, step.tree, store, implementation, shared) for one in step.passes[rank]
    ]


def drawn(one: Pass, tree: Tree) -> tuple[tuple[int, int, int], ...]:
    """(chat, start, end) of each segment of a pass: whose dropout it is drawn as, and where.

    An empty pass is one token of chat 0.
    """
    segments = [tree.segments[number] for number in one.segments]
    return tuple((s.chat, s.start, s.end) for s in segments) or ((0, 0, 1),)


def pass_tensors(
    one: Pass, tree: Tree, store: ChatStore, implementation: str, shared: SharedKeys
) -> dict[str, Any]:
    """The tensors of one pass.

    input_ids     S0 S1 S2 | a3 a4 | b3 b4 b5     chats Sa and Sb, one row
    position_ids   0  1  2 |  3  4 |  3  4  5
    trained                |     x |  x  x
    positions_P       2 2          3 5            the position before each trained token
    targets_P        (a3) b3 ...                  one position may have a target for each branch
    weights_P                                     chats that train this target
    """
    if not one.segments:
        return _empty_pass(implementation)
    segments = [tree.segments[number] for number in one.segments]
    offsets = np.concatenate([[0], np.cumsum([len(segment) for segment in segments])])
    place = dict(zip(one.segments, offsets[:-1].tolist(), strict=True))
    positions_P, targets_P, weights_P = _targets(one, tree, store, place)
    ids = [store.ids(segment.chat)[segment.start : segment.end] for segment in segments]
    positions = [np.arange(segment.start, segment.end) for segment in segments]
    shape = PassShape(
        sizes=tuple(len(segment) for segment in segments),
        paths=_paths(one, tree),
        before=tuple(len(tree.segments[number]) for number in one.before),
        prefixes=_prefixes(one),
        shared=shared,
    )
    return {
        "input_ids": torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        **_position_ids(np.concatenate(positions), shape, implementation),
        "positions_P": torch.from_numpy(positions_P),
        "targets_P": torch.from_numpy(targets_P),
        "weights_P": torch.from_numpy(weights_P),
        **attention.pass_inputs(shape, implementation),
    }


def _position_ids(
    positions_T: npt.NDArray[np.int64], shape: PassShape, implementation: str
) -> dict[str, torch.Tensor]:
    """A chat alone has the positions that every model counts by itself; some take no others."""
    if len(shape.sizes) == 1 and implementation not in PACKED:
        return {}
    return {"position_ids": torch.from_numpy(positions_T)[None]}


def _prefixes(one: Pass) -> Prefixes:
    if one.kind is PassKind.PLAIN:
        return Prefixes.USE if one.before else Prefixes.NONE
    return Prefixes(one.kind.value)


def _targets(
    one: Pass, tree: Tree, store: ChatStore, place: dict[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Positions, targets and weights: a target belongs to the pass that holds the token before."""
    rows: list[npt.NDArray[np.int64]] = []
    for chat in one.chats:
        ids_T = store.ids(chat).astype(np.int64)
        trained = _trained_tokens(store.edges(chat))
        for number in tree.paths[chat]:
            if number in place:
                segment = tree.segments[number]
                here = trained[(trained > segment.start) & (trained <= segment.end)]
                rows.append(np.stack([here - 1 - segment.start + place[number], ids_T[here]]))
    pairs_2P = np.concatenate(rows, axis=1) if rows else np.zeros((2, 0), np.int64)
    pairs_2P, counts_P = np.unique(pairs_2P, axis=1, return_counts=True)
    return pairs_2P[0], pairs_2P[1], counts_P.astype(np.float32)


def _trained_tokens(edges: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    spans = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    parts = [np.arange(start, end) for start, end in spans]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _paths(one: Pass, tree: Tree) -> tuple[tuple[int, ...], ...]:
    """For each segment of the pass, the segments it sees, counted with those `before` first."""
    paths: dict[int, tuple[int, ...]] = {-1: ()}
    for place, number in enumerate((*one.before, *one.segments)):
        paths[number] = (*paths[tree.segments[number].parent], place)
    return tuple(paths[number] for number in one.segments)


def _empty_pass(implementation: str) -> dict[str, Any]:
    """A rank without work still takes part in the collective operations of a pass."""
    nothing = torch.zeros(0, dtype=torch.int64)
    shape = PassShape.plain(1)
    return {
        "input_ids": torch.zeros((1, 1), dtype=torch.int64),
        **_position_ids(np.zeros(1, np.int64), shape, implementation),
        "positions_P": nothing,
        "targets_P": nothing,
        "weights_P": torch.zeros(0),
        **attention.pass_inputs(shape, implementation),
    }
