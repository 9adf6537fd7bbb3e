"""Queries, keys, values, segment bounds → attention in one kernel call: FlashAttention or PyTorch.

Shapes: N query heads, M key heads, T tokens, K keys, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from lorawright.model.segment import Rules
from lorawright.plan import attention
from lorawright.plan.attention import KERNEL_RULES, VarlenKernel


@dataclass(frozen=True, slots=True)
class VarlenIndex:
    """A pass as varlen kernels take it: segments one after another, each with the keys it sees.

        queries             | S S S S | a a a | b b |           cumulative_queries  0 4 7 9
        gathered keys       | S S S S | S S S S a a a | S S S S b b |
                                                                cumulative_keys     0 4 11 17

    Attributes:
        keys: For each gathered key, its place among the keys of all segments.
        cumulative_queries: Where each segment's queries begin, and the end.
        cumulative_keys: Where each segment's gathered keys begin, and the end.
        longest_queries: Most queries of a segment.
        longest_keys: Most keys of a segment.
    """

    keys: torch.Tensor
    cumulative_queries: torch.Tensor
    cumulative_keys: torch.Tensor
    longest_queries: int
    longest_keys: int

    @classmethod
    def of(
        cls,
        num_queries: Sequence[int],
        sizes: Sequence[int],
        paths: Sequence[Sequence[int]],
        device: torch.device,
    ) -> VarlenIndex:
        """The index of a pass.

        Args:
            num_queries: Tokens of each segment of the pass.
            sizes: Tokens of each segment there are keys of; those of other passes first.
            paths: For each segment of the pass, the segments whose keys it sees.
            device: Where its tensors go.
        """
        parts = torch.split(torch.arange(sum(sizes), device=device), list(sizes))
        keys = [sum(sizes[number] for number in path) for path in paths]
        return cls(
            torch.cat([parts[number] for path in paths for number in path]),
            torch.tensor([0, *accumulate(num_queries)], dtype=torch.int32, device=device),
            torch.tensor([0, *accumulate(keys)], dtype=torch.int32, device=device),
            max(num_queries),
            max(keys),
        )

    @property
    def sizes(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """In the order that these kernels take them."""
        return (
            self.cumulative_queries,
            self.cumulative_keys,
            self.longest_queries,
            self.longest_keys,
        )


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, VarlenIndex, Rules], torch.Tensor]
"""(queries_TND, keys_KMD, values_KMD, index, rules) → output_TND, causal from each end."""


def takes(rules: Rules) -> bool:
    """Whether the kernel has what a layer asks for."""
    found = attention.varlen_kernel()
    return not rules.dropout and (found is None or rules.kinds <= KERNEL_RULES[found])


def _before(rules: Rules) -> int:
    """Keys that a query sees before its own; -1: all."""
    return -1 if rules.window is None else rules.window - 1


def _flash_attn(
    query_TND: torch.Tensor,
    key_KMD: torch.Tensor,
    value_KMD: torch.Tensor,
    index: VarlenIndex,
    rules: Rules,
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    output_TND: torch.Tensor = flash_attn_varlen_func(
        query_TND,
        key_KMD,
        value_KMD,
        *index.sizes,
        softmax_scale=rules.scale,
        causal=True,
        window_size=(_before(rules), 0 if rules.window else -1),
        **({} if rules.softcap is None else {"softcap": rules.softcap}),  # 2.6 and later
    )
    return output_TND


def _torch_varlen(
    query_TND: torch.Tensor,
    key_KMD: torch.Tensor,
    value_KMD: torch.Tensor,
    index: VarlenIndex,
    rules: Rules,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    grouped = query_TND.shape[1] != key_KMD.shape[1]
    output = varlen_attn(
        query_TND,
        key_KMD,
        value_KMD,
        *index.sizes,
        scale=rules.scale,
        window_size=(_before(rules), 0),
        enable_gqa=grouped,
    )
    assert isinstance(output, torch.Tensor)
    return output


def kernel() -> Kernel:
    """The kernel that `plan.attention` has found to work here."""
    found = attention.varlen_kernel()
    assert found is not None  # without one, `choose` takes another attention
    return _flash_attn if found is VarlenKernel.FLASH_ATTN else _torch_varlen
