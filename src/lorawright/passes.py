"""Planned steps as tensors: what the data loader hands to the trainer.

Shapes: B is 1, a pass is one row; T its tokens; P its trained positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from lorawright import attention
from lorawright.plan import Pass, Plan
from lorawright.store import ChatStore


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
            "chats": step.passes[self.rank],
            "passes": [
                pass_tensors(chats, self.store, self.implementation)
                for chats in step.passes[self.rank]
            ],
            "num_tokens": step.num_tokens,
            "num_trained_tokens": step.num_trained_tokens,
        }


def pass_tensors(chats: Pass, store: ChatStore, implementation: str) -> dict[str, Any]:
    """The tensors of one pass.

    input_ids     a0 a1 a2 a3 | b0 b1 b2        chats a and b, one row
    position_ids   0  1  2  3 |  0  1  2
    trained             x  x  |     x
    positions_P      1  2         4             the position before each trained token
    targets_P       a2 a3        b1
    """
    if not chats:
        return _empty_pass(implementation)
    ids: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    bounds = [0]
    for chat in chats:
        ids_T = torch.from_numpy(store.ids(chat).astype("int64"))
        edges = store.edges(chat)
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            positions.append(torch.arange(start - 1, end - 1) + bounds[-1])
            targets.append(ids_T[start:end])
        ids.append(ids_T)
        bounds.append(bounds[-1] + len(ids_T))
    return {
        "input_ids": torch.cat(ids)[None],
        "position_ids": torch.cat([torch.arange(len(ids_T)) for ids_T in ids])[None],
        "positions_P": torch.cat(positions),
        "targets_P": torch.cat(targets),
        **attention.pass_inputs(tuple(bounds), implementation),
    }


def _empty_pass(implementation: str) -> dict[str, Any]:
    """A rank without work still takes part in the collective operations of a pass."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return {
        "input_ids": torch.zeros((1, 1), dtype=torch.int64),
        "position_ids": torch.zeros((1, 1), dtype=torch.int64),
        "positions_P": nothing,
        "targets_P": nothing,
        **attention.pass_inputs((0, 1), implementation),
    }
