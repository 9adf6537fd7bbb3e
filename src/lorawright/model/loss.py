"""Hidden states, the output head's weight and targets → sums of loss, hits and entropy, in chunks.

Fused linear cross-entropy: the product with the head's weight and the cross-entropy are one
operation, so that logits exist at trained positions only, and for one chunk of them at a time.

    hidden_PH ──chunks──► logits_CV, scaled and capped ──► sums of -log p(target), hits, entropy
                              │         never more than CHUNK x vocabulary at once
                              └──► gradient_PH, in the same buffer

For Qwen2.5-0.5B the head is 136 M of 494 M parameters; most positions of a chat are not trained.
Its weight is frozen, so the gradient of the hidden states is all there is: it is made chunk by
chunk in the forward pass, in place, in buffers that serve all chunks; the logits are never kept or
computed again. A target that several chats of a shared prefix train counts once for each.

Shapes: P trained positions, C positions of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from lorawright.model.logit_scaling import PLAIN, LogitScaling

CHUNK = 256  # most rows; below it the product slows down: 390 GFLOP/s at 256 to 1024, 360 at 128


class LossSums(NamedTuple):
    """Over P positions, each counted by its weight; a tuple, for hooks on the head's output."""

    loss: torch.Tensor
    hits: torch.Tensor
    entropy: torch.Tensor


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies; the gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_PH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_P: torch.Tensor,
        weights_P: torch.Tensor,
        with_entropy: bool,
        buffers: Buffers,
        scaling: LogitScaling,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gradient_PH = torch.empty_like(hidden_PH) if hidden_PH.requires_grad else None
        sums = torch.zeros(3, dtype=sum_dtype(hidden_PH.device), device=hidden_PH.device)
        for chunk in _chunks(len(targets_P)):
            targets_C, weights_C = targets_P[chunk], weights_P[chunk]
            logits_CV = buffers.logits(hidden_PH[chunk], weight_VH, bias_V)
            slope_CV = None
            if not scaling.is_plain:
                slope_CV = buffers.slope(logits_CV) if scaling.cap is not None else None
                scaling.apply_(logits_CV, slope_CV)
            rows_C = torch.arange(len(targets_C), device=targets_C.device)
            most_C, likeliest_C = logits_CV.max(-1)
            logits_CV.sub_(most_C[:, None])
            target_logits_C = logits_CV[rows_C, targets_C]
            mean_logit_C = _mean_logit(logits_CV) if with_entropy else None
            total_C = logits_CV.exp_().sum(-1)
            log_total_C = total_C.log()
            sums[0] += (weights_C * (log_total_C - target_logits_C)).sum()
            sums[1] += (weights_C * (likeliest_C == targets_C)).sum()
            if mean_logit_C is not None:
                sums[2] += (weights_C * (log_total_C - mean_logit_C)).sum()
            if gradient_PH is not None:
                logits_CV.mul_((weights_C / total_C)[:, None])
                logits_CV[rows_C, targets_C] -= weights_C
                if not scaling.is_plain:
                    logits_CV.mul_(scaling.scale if slope_CV is None else slope_CV)
                gradient_PH[chunk] = buffers.narrow(logits_CV, weight_VH) @ weight_VH
        ctx.save_for_backward(gradient_PH)
        loss, hits, entropy = sums.float().unbind()
        ctx.mark_non_differentiable(hits, entropy)
        return loss, hits, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[torch.Tensor | None, ...]:
        (gradient_PH,) = ctx.saved_tensors
        scaled_PH = gradient_PH * upstream[0].to(gradient_PH.dtype)
        return scaled_PH, None, None, None, None, None, None, None


def _chunks(num_positions: int) -> list[slice]:
    """Equal chunks: a short last one would read the whole weight for a few rows."""
    size = -(-num_positions // max(1, -(-num_positions // CHUNK)))
    return [slice(start, start + size) for start in range(0, num_positions, max(1, size))]


class Buffers:
    """Memory for one chunk's logits in the head's dtype and in float32, for all chunks and steps.

    Fresh memory for each step is a gigabyte of page faults: a tenth of a step on a CPU.
    """

    def __init__(self) -> None:
        self._kept: dict[torch.dtype, torch.Tensor] = {}
        self._slope_CV: torch.Tensor | None = None

    def _rows(self, num_rows: int, weight_VH: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        kept = self._kept.get(dtype)
        if kept is None or kept.shape[1] != len(weight_VH) or kept.device != weight_VH.device:
            kept = weight_VH.new_empty((CHUNK, len(weight_VH)), dtype=dtype)
            self._kept[dtype] = kept
        return kept[:num_rows]

    def logits(
        self, hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None
    ) -> torch.Tensor:
        """The chunk's logits in float32."""
        own_CV = self._rows(len(hidden_CH), weight_VH, weight_VH.dtype)
        torch.mm(hidden_CH.to(weight_VH.dtype), weight_VH.T, out=own_CV)
        if bias_V is not None:
            own_CV += bias_V
        if own_CV.dtype is torch.float32:
            return own_CV
        return self._rows(len(hidden_CH), weight_VH, torch.float32).copy_(own_CV)

    def slope(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """As much again, for what a cap does to the gradient."""
        if self._slope_CV is None or self._slope_CV.shape[1] != logits_CV.shape[1]:
            self._slope_CV = logits_CV.new_empty((CHUNK, logits_CV.shape[1]))
        return self._slope_CV[: len(logits_CV)]

    def narrow(self, float_CV: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
        """The float32 buffer in the head's dtype."""
        if weight_VH.dtype is torch.float32:
            return float_CV
        return self._rows(len(float_CV), weight_VH, weight_VH.dtype).copy_(float_CV)


def _mean_logit(logits_CV: torch.Tensor) -> torch.Tensor:
    """Expected logit under the distribution: its entropy is log(total) less this."""
    return (logits_CV.softmax(-1) * logits_CV).sum(-1)


def fused_linear_cross_entropy(
    hidden_PH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_P: torch.Tensor,
    weights_P: torch.Tensor | None = None,
    *,
    with_entropy: bool = False,
    buffers: Buffers | None = None,
    scaling: LogitScaling = PLAIN,
) -> LossSums:
    """Cross-entropy of a linear layer's logits, summed over P positions.

    Args:
        hidden_PH: The backbone's output at the positions.
        weight_VH: The head's, frozen.
        bias_V: The head's, or None.
        targets_P: Token ids.
        weights_P: How many times each position counts; 1 by default.
        with_entropy: Also sum entropies; costs another softmax.
        buffers: Memory kept from step to step; allocated anew by default.
        scaling: What the model does to the product.
    """
    if weights_P is None:
        weights_P = torch.ones(len(targets_P), device=hidden_PH.device)
    with torch.autocast(hidden_PH.device.type, enabled=False):
        loss, hits, entropy = _FusedLinearCrossEntropy.apply(  # type: ignore[no-untyped-call] # torch's own
            hidden_PH, weight_VH, bias_V, targets_P, weights_P, with_entropy, buffers or Buffers(),
            scaling,
        )  # fmt: skip
    return LossSums(loss, hits, entropy)


@torch.no_grad()
def token_losses(
    hidden_PH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_P: torch.Tensor,
    scaling: LogitScaling = PLAIN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(target) of each of P positions in float32, and whether it is the most likely token."""
    losses: list[torch.Tensor] = []
    hits: list[torch.Tensor] = []
    for chunk in _chunks(len(targets_P)):
        targets_C = targets_P[chunk]
        logits_CV = nn.functional.linear(
            hidden_PH[chunk].to(weight_VH.dtype), weight_VH, bias_V
        ).float()
        logits_CV = scaling.apply(logits_CV)
        losses.append(nn.functional.cross_entropy(logits_CV, targets_C, reduction="none"))
        hits.append(logits_CV.argmax(-1) == targets_C)
    return torch.cat(losses), torch.cat(hits)


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64 for long sums, where there is one: Apple's GPUs have none (pytorch #122602)."""
    return torch.float32 if device.type == "mps" else torch.float64
