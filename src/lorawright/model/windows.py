"""A loaded base → the masks that it would make, compared with the windows its layers hand on.

A window of thousands of tokens is not crossed by any chat that is short enough to try a model
with. But Transformers makes masks from functions of two places, which tell at any distance who
sees whom: two tokens go through the model, and each layer's function is asked at the edges of its
window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from lorawright.errors import ModelError
from lorawright.model.attention import FALLBACK

ASKED = "lorawright_asked"  # an attention that attends to nothing
FAR = (1, 2, 16, 128, 1024, 8192, 65536, 1 << 20)  # places between which any rule would show


class _Asked:
    """What a forward has shown: its mask functions, and each layer's window and function."""

    def __init__(self) -> None:
        self.functions: list[Any] = []
        self.layers: list[tuple[str, int | None, int]] = []

    def mask(
        self, *, batch_size: int, q_length: int, kv_length: int, mask_function: Any,
        device: Any = None, **_: Any,
    ) -> torch.Tensor:  # fmt: skip
        """A mask whose numbers are the place of its function."""
        self.functions.append(mask_function)
        size = (batch_size, 1, q_length, kv_length)
        return torch.full(size, len(self.functions) - 1, dtype=torch.float32, device=device)

    def attend(
        self,
        module: nn.Module,
        query_BNTD: torch.Tensor,
        key_BMTD: torch.Tensor,
        value_BMTD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        sliding_window: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        number = -1 if attention_mask is None else int(attention_mask.max())
        if 0 <= number < len(self.functions):  # not a mask that the layer has made by itself
            self.layers.append((type(module).__name__, sliding_window or None, number))
        batch, heads, tokens, _size = query_BNTD.shape
        return query_BNTD.new_zeros((batch, tokens, heads, value_BMTD.shape[-1])), None


def compare(base: Any, run: Callable[[torch.Tensor], Any]) -> None:
    """Refuses a base with a layer whose mask is not that of the window it hands on.

    Args:
        base: On its device, whole.
        run: Sends ids (1, T) through its layers.

    Raises:
        ModelError: A layer hides other tokens than its window does.
    """
    asked = _Asked()
    AttentionInterface.register(ASKED, asked.attend)
    AttentionMaskInterface.register(ASKED, asked.mask)
    with switched(base, ASKED):
        run(torch.tensor([[1, 2]], device=base.device))
    for layer, window, number in sorted(set(asked.layers), key=str):
        pair = _first_difference(asked.functions[number], window)
        if pair is not None:
            raise ModelError(
                f"{layer} says "
                + ("no window" if window is None else f"a window of {window} tokens")
                + f", and its mask has token {pair[0]} see token {pair[1]} otherwise",
                where="model.name",
                hint=FALLBACK,
            )


@contextmanager
def switched(base: Any, implementation: str) -> Iterator[None]:
    """Another attention in place of a base's."""
    before = base.config._attn_implementation
    base.set_attn_implementation(implementation)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def _first_difference(function: Any, window: int | None) -> tuple[int, int] | None:
    """A pair of places where a mask is not causal within a window."""
    edges = () if window is None else (window - 1, window, window + 1, 2 * window, 2 * window + 1)
    places = sorted({0, *FAR, *edges})
    for query in places:
        for key in places:
            expected = key <= query and (window is None or key > query - window)
            if _sees(function, query, key) is not expected:
                return query, key
    return None


def _sees(function: Any, query: int, key: int) -> bool:
    places = (torch.tensor(place) for place in (0, 0, query, key))
    return bool(function(*places))
