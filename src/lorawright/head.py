"""The output head and the loss, at trained positions only, in chunks.

    hidden_TH ──pick──► hidden_PH ──chunks──► logits_CV ──► sum of -log p(target), hits
                                              never more than CHUNK x vocabulary at once

For Qwen2.5-0.5B the head is 136 M of 494 M parameters; most positions of a chat are not trained.
Its weight is frozen, so the gradient of the hidden states is all there is: it is made chunk by
chunk in the forward pass, and the logits are never kept or computed again.

Shapes: T tokens of the pass, P trained positions, C positions of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.utils import ModelOutput

CHUNK = 1024  # 1024 x 151,936 logits in float32 are 0.6 GB; smaller chunks slow the product down


@dataclass
class HeadOutput(ModelOutput):  # type: ignore[misc] # transformers is followed loosely
    """What a training pass gives back.

    Attributes:
        loss_sum: Sum over trained positions of -log p(target).
        num_hits: Trained positions where the target is the most likely token.
    """

    loss_sum: torch.Tensor | None = None
    num_hits: torch.Tensor | None = None


class _ChunkedLoss(torch.autograd.Function):
    """Sum of cross-entropies; the gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_PH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_P: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_gradient = hidden_PH.requires_grad
        gradient_PH = torch.empty_like(hidden_PH) if wants_gradient else None
        loss_sum = torch.zeros((), dtype=torch.float32, device=hidden_PH.device)
        num_hits = torch.zeros((), dtype=torch.int64, device=hidden_PH.device)
        for start in range(0, len(targets_P), CHUNK):
            chunk = slice(start, start + CHUNK)
            targets_C = targets_P[chunk]
            logits_CV = nn.functional.linear(
                hidden_PH[chunk].to(weight_VH.dtype), weight_VH, bias_V
            ).float()
            num_hits += (logits_CV.argmax(-1) == targets_C).sum()
            rows_C = torch.arange(len(targets_C), device=targets_C.device)
            log_total_C = logits_CV.logsumexp(-1)
            loss_sum += (log_total_C - logits_CV[rows_C, targets_C]).sum()
            if gradient_PH is not None:
                logits_CV.sub_(log_total_C[:, None]).exp_()
                logits_CV[rows_C, targets_C] -= 1
                gradient_PH[chunk] = logits_CV.to(weight_VH.dtype) @ weight_VH
        ctx.save_for_backward(gradient_PH)
        ctx.mark_non_differentiable(num_hits)
        return loss_sum, num_hits

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[torch.Tensor, None, None, None]:
        (gradient_PH,) = ctx.saved_tensors
        return gradient_PH * upstream[0].to(gradient_PH.dtype), None, None, None


def chunked_loss(
    hidden_PH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_P: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of -log p(target), number of hits) over P positions."""
    with torch.autocast(hidden_PH.device.type, enabled=False):
        result = _ChunkedLoss.apply(  # type: ignore[no-untyped-call] # torch declares no types
            hidden_PH, weight_VH, bias_V, targets_P
        )
    return result[0], result[1]


@torch.no_grad()
def token_losses(
    hidden_PH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_P: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(target) of each of P positions in float32, and whether it is the most likely token."""
    losses: list[torch.Tensor] = []
    hits: list[torch.Tensor] = []
    for start in range(0, len(targets_P), CHUNK):
        targets_C = targets_P[start : start + CHUNK]
        logits_CV = nn.functional.linear(
            hidden_PH[start : start + CHUNK].to(weight_VH.dtype), weight_VH, bias_V
        ).float()
        losses.append(nn.functional.cross_entropy(logits_CV, targets_C, reduction="none"))
        hits.append(logits_CV.argmax(-1) == targets_C)
    return torch.cat(losses), torch.cat(hits)


def fits(model: Any) -> bool:
    """Whether the head is a plain product: no scaled or capped logits behind it."""
    config = model.config.get_text_config()
    extras = (
        "final_logit_softcapping",
        "logit_scale",
        "output_multiplier",
        "lm_head_multiplier",
        "logits_scaling",
    )
    return not any(getattr(config, name, None) for name in extras)


def install(base: Any) -> None:
    """Teaches a causal model to answer `positions_P` and `targets_P` with a `HeadOutput`.

    Replaces `forward` on this one instance, the way TRL's `add_fused_lm_head` does (trl 1.16,
    trainer/utils.py): wrappers such as DDP and FSDP only see `forward`, and Transformers has no
    hook between the backbone and the head that works in chunks. Other calls pass through.
    """
    passed_on = base.forward

    @functools.wraps(type(base).forward)
    def forward(
        self: Any,
        *args: Any,
        positions_P: torch.Tensor | None = None,
        targets_P: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if positions_P is None or targets_P is None:
            return passed_on(*args, **kwargs)
        hidden_TH = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state[0]
        head = self.get_output_embeddings()
        with _gathered(head.weight):
            loss_sum, num_hits = chunked_loss(
                hidden_TH[positions_P], _whole(head.weight), _whole(head.bias), targets_P
            )
        return HeadOutput(loss_sum=loss_sum, num_hits=num_hits)

    base.forward = types.MethodType(forward, base)


def _gathered(weight: torch.Tensor) -> AbstractContextManager[Any]:
    """ZeRO-3 holds a share of each weight; outside the module's own forward it must be asked."""
    if not hasattr(weight, "ds_id"):
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([weight])
    return context


def _whole(weight: Any) -> Any:
    """FSDP2 hands out shards; the head needs all of it. A head without bias has None."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
