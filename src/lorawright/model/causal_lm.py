"""A causal language model → one whose forward returns summed losses at given positions.

    input_ids ─► backbone ─► hidden_TH ──pick P──► fused linear cross-entropy        LossKind.FUSED
                     └─────► the model's own head, scale and cap ─► cross-entropy    LossKind.LOGITS

Which of the two is right is measured on the loaded model: its logits against the plain product of
hidden states and the head's weight.

Shapes: B is 1, a pass is one row; T its tokens, P trained positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.utils import ModelOutput

from lorawright.model.loss import Buffers, fused_linear_cross_entropy, sum_dtype
from lorawright.plan import architecture


@dataclass
class LossOutput(ModelOutput):  # type: ignore[misc] # transformers is followed loosely
    """What a training pass returns.

    Attributes:
        loss_sum: Sum over trained positions of -log p(target).
        num_hits: Trained positions where the target is the most likely token.
        entropy_sum: Sum over trained positions of the distribution's entropy, or 0.
    """

    loss_sum: torch.Tensor | None = None
    num_hits: torch.Tensor | None = None
    entropy_sum: torch.Tensor | None = None


class LossKind(StrEnum):
    """Where the logits of a training pass come from."""

    FUSED = "fused"  # hidden states times the head's weight, chunk by chunk
    LOGITS = "logits"  # the model's own forward: scaled, capped or otherwise changed after the head


def has_plain_logits(model: Any) -> bool:
    """Whether the head is a plain product, by what the config says: no scaled or capped logits."""
    return architecture.scaled_logits(model.config) is None


EXACT_LOGITS, ROUGH_LOGITS = 1e-5, 0.02
"""Most that a product's logits and the model's differ by, as a share of a row's size: in float32,
and in 16 bits or quantized."""


@torch.no_grad()
def measure_loss_kind(model: Any) -> LossKind:
    """Where a model's logits must come from, by computing them both ways.

    Args:
        model: Base or PEFT model, in evaluation mode, with attention that asks for no pass.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    output = base.get_output_embeddings()
    size = int(base.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids_T = torch.randint(size // 10, size * 9 // 10, (16,), generator=generator)
    ids_BT = ids_T[None].to(base.device)
    if backbone(base) is None:
        return LossKind.LOGITS
    own_TV = base(ids_BT, use_cache=False).logits[0]
    hidden_TH = backbone(base)(ids_BT, use_cache=False).last_hidden_state[0]
    exact = base.dtype is torch.float32 and not getattr(base, "is_quantized", False)
    most = EXACT_LOGITS if exact else ROUGH_LOGITS
    error = relative_error(output(hidden_TH.to(output.weight.dtype)), own_TV)
    return LossKind.FUSED if has_plain_logits(base) and error <= most else LossKind.LOGITS


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Median over rows of a difference's size as a share of the row's."""
    found, expected = found.float(), expected.float()
    shares = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)
    return float(shares.median())


def backbone(base: Any) -> Any:
    """The part before the head, or None; Llama 4's prefix names another class than its own."""
    return getattr(base, "model", None) if base.base_model is base else base.base_model


def install(base: Any, kind: LossKind) -> None:
    """Replaces a model's forward by one that takes `positions_P` and `targets_P` as well.

    Replaces `forward` on this one instance, the way TRL's `add_fused_lm_head` does (trl 1.16,
    trainer/utils.py): wrappers such as DDP and FSDP only see `forward`, and Transformers has no
    hook between the backbone and the head that works in chunks. Other calls pass through.

    Args:
        base: The model, without an adapter or with one inside.
        kind: Where its logits come from, see `selfcheck.verify`.
    """
    original = base.forward
    sums = _fused_sums if kind is LossKind.FUSED else _logits_sums

    @functools.wraps(type(base).forward)
    def forward(
        self: Any,
        *args: Any,
        positions_P: torch.Tensor | None = None,
        targets_P: torch.Tensor | None = None,
        weights_P: torch.Tensor | None = None,
        with_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        if positions_P is None or targets_P is None:
            return original(*args, **kwargs)
        if weights_P is None:
            weights_P = torch.ones(len(targets_P), device=targets_P.device)
        part = backbone(self) if kind is LossKind.FUSED else original
        call = functools.partial(part, *args, use_cache=False, **kwargs)
        found = sums(self, call, positions_P, targets_P, weights_P, with_entropy)
        return LossOutput(loss_sum=found[0], num_hits=found[1], entropy_sum=found[2])

    base.forward = types.MethodType(forward, base)
    if kind is LossKind.FUSED:
        _add_loss_to_head(base.get_output_embeddings())


def _fused_sums(
    base: Any,
    call: Any,
    positions_P: torch.Tensor,
    targets_P: torch.Tensor,
    weights_P: torch.Tensor,
    with_entropy: bool,
) -> tuple[torch.Tensor, ...]:
    hidden_TH = call().last_hidden_state[0]
    sums: tuple[torch.Tensor, ...] = base.get_output_embeddings()(
        hidden_TH[positions_P], targets_P=targets_P, weights_P=weights_P, with_entropy=with_entropy
    )
    return sums


def _model_logits(base: Any, call: Any, positions_P: torch.Tensor) -> torch.Tensor:
    if "logits_to_keep" in inspect.signature(type(base).forward).parameters:
        kept_PV: torch.Tensor = call(logits_to_keep=positions_P).logits[0]
        return kept_PV
    logits_TV: torch.Tensor = call().logits[0]
    return logits_TV[positions_P]


@torch.no_grad()
def token_losses_from_logits(
    model: Any, ids_T: torch.Tensor, positions_P: torch.Tensor, targets_P: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `loss.token_losses`, for one chat, from the model's own logits."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    call = functools.partial(base, ids_T[None], use_cache=False)
    logits_PV = _model_logits(base, call, positions_P).float()
    losses_P = nn.functional.cross_entropy(logits_PV, targets_P, reduction="none")
    return losses_P, logits_PV.argmax(-1) == targets_P


def _logits_sums(
    base: Any,
    call: Any,
    positions_P: torch.Tensor,
    targets_P: torch.Tensor,
    weights_P: torch.Tensor,
    with_entropy: bool,
) -> tuple[torch.Tensor, ...]:
    """As `_fused_sums`, from the model's own logits of all P positions at once."""
    log_PV = _model_logits(base, call, positions_P).float().log_softmax(-1)
    dtype = sum_dtype(log_PV.device)
    losses_P = -log_PV.gather(-1, targets_P[:, None])[:, 0]
    hits_P = (log_PV.detach().argmax(-1) == targets_P).to(dtype)
    entropy = torch.zeros((), device=log_PV.device)
    if with_entropy:
        with torch.no_grad():
            entropy = -(weights_P * (log_PV.exp() * log_PV).sum(-1)).sum()
    return (weights_P * losses_P.to(dtype)).sum().float(), (weights_P * hits_P).sum(), entropy


def _add_loss_to_head(head: Any) -> None:
    """Replaces the head's forward by one that also takes `targets_P` and returns sums.

    ZeRO-3 and FSDP2 hold a share of each weight and gather it around its module's own forward.
    """
    original = head.forward
    buffers = Buffers()

    def forward(
        self: Any,
        hidden_PH: Any,
        *,
        targets_P: torch.Tensor | None = None,
        weights_P: torch.Tensor | None = None,
        with_entropy: bool = False,
    ) -> Any:
        if targets_P is None:
            return original(hidden_PH)
        weight_VH, bias_V = _whole(self.weight), _whole(self.bias)
        sums = fused_linear_cross_entropy(
            hidden_PH,
            weight_VH,
            bias_V,
            targets_P,
            weights_P,
            with_entropy=with_entropy,
            buffers=buffers,
        )
        return sums.loss, sums.hits, sums.entropy  # ZeRO-3's hooks want a tuple

    head.forward = types.MethodType(forward, head)


def _whole(weight: Any) -> Any:
    """FSDP2 hands out shards; the head needs all of it. A head without bias has None."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
