"""Attention over a pack, chat by chat: no cross-talk, no L x L mask, no work between chats.

    pack      | chat 0 . . . | chat 1 . . | chat 2 . . . . |
    bounds    0              4            7                12

Registered through Transformers' `AttentionInterface`; a name without a mask function makes the
model build no mask. The bounds travel as a keyword of the model's forward.
"""

from __future__ import annotations

import itertools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from lorawright.hardware import Device

NAME = "lorawright"
FLASH = "flash_attention_2"
DENSE = "sdpa"


def choose(folder: Path, device: Device) -> str:
    """The attention to train this model with.

    FlashAttention's varlen kernel on CUDA where it is installed; ours elsewhere; PyTorch's with a
    dense mask for models whose attention is more than causal (sliding windows, capped scores).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    windowed = text.get("sliding_window") and text.get("use_sliding_window", True)
    if windowed or text.get("attn_logit_softcapping") or text.get("attention_sinks"):
        return DENSE
    if device is Device.CUDA and find_spec("flash_attn") is not None:
        return FLASH
    return NAME


def pass_inputs(bounds: tuple[int, ...], implementation: str) -> dict[str, Any]:
    """Keywords that tell the attention where chats begin and end.

    Args:
        bounds: Positions 0, end of chat 0, end of chat 1, … in the pack.
        implementation: One of `choose`.
    """
    if implementation == NAME:
        return {"chat_bounds": bounds}
    if implementation == FLASH:
        longest = max(b - a for a, b in itertools.pairwise(bounds))
        cumulative = torch.tensor(bounds, dtype=torch.int32)
        return {
            "cu_seq_lens_q": cumulative,
            "cu_seq_lens_k": cumulative,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    return {}  # Transformers makes the block mask from position_ids


def attend(
    module: nn.Module,
    query_BNTD: torch.Tensor,
    key_BMTD: torch.Tensor,
    value_BMTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    chat_bounds: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each chat.

    Shapes: B batch (1 for packs), N query heads, M key heads, T tokens, D head size.

    Returns:
        The output as (B, T, N, D), and no weights.
    """
    assert attention_mask is None, "packs carry bounds, not masks"
    bounds = chat_bounds or (0, query_BNTD.shape[2])
    outputs = [
        F.scaled_dot_product_attention(
            query_BNTD[:, :, start:end],
            key_BMTD[:, :, start:end],
            value_BMTD[:, :, start:end],
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=query_BNTD.shape[1] != key_BMTD.shape[1],
        )
        for start, end in itertools.pairwise(bounds)
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2), None


AttentionInterface.register(NAME, attend)
