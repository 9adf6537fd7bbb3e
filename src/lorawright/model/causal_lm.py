"""A causal language model → one whose forward returns summed losses at given positions.

    input_ids ─► backbone ─► hidden_TH ──pick P──► fused linear cross-entropy, scaled and capped
                     └─────► the model's own forward ─► logits ─► cross-entropy

Which of the two is right is measured on the loaded model: its logits against the product of hidden
states and the head's weight, with what its config says of scales and caps.

Shapes: B is 1, a pass is one row; T its tokens, P trained positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.utils import ModelOutput

from lorawright.model.logit_scaling import LogitScaling
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


EXACT_LOGITS, ROUGH_LOGITS = 1e-5, 0.02
"""Most that a product's logits and the model's differ by, as a share of a row's size: in float32,
and in 16 bits or quantized."""


@torch.no_grad()
def measure_scaling(model: Any) -> LogitScaling | None:
    """What a model does to its logits behind the head, by computing them both ways.

    Args:
        model: Base or PEFT model, in evaluation mode, with attention that asks for no pass.

    Returns:
        None where its own forward alone can tell.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    output = base.get_output_embeddings()
    size = int(base.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids_T = torch.randint(size // 10, size * 9 // 10, (16,), generator=generator)
    ids_BT = ids_T[None].to(base.device)
    if backbone(base) is None:
        return None
    own_TV = base(ids_BT, use_cache=False).logits[0]
    hidden_TH = backbone(base)(ids_BT, use_cache=False).last_hidden_state[0]
    product_TV = output(hidden_TH.to(output.weight.dtype)).float()
    exact = base.dtype is torch.float32 and not getattr(base, "is_quantized", False)
    most = EXACT_LOGITS if exact else ROUGH_LOGITS
    known = [
        one for one in said_scalings(base) if relative_error(one.apply(product_TV), own_TV) <= most
    ]
    return known[0] if known else None


def said_scalings(model: Any) -> list[LogitScaling]:
    """What its config may mean: a cap, a factor or a divisor; nothing, where it names neither."""
    named = architecture.scaled_logits(model.config)
    caps: list[float | None] = [value for key, value in named.items() if "cap" in key]
    factors = [value for key, value in named.items() if "cap" not in key]
    scales = [scale for value in factors for scale in (value, 1 / value)] or [1.0]
    return [LogitScaling(scale, cap) for cap in caps or [None] for scale in scales]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Median over rows of a difference's size as a share of the row's."""
    found, expected = found.float(), expected.float()
    shares = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)
    return float(shares.median())


def backbone(base: Any) -> Any:
    """The part before the head, or None; Llama 4's prefix names another class than its own."""
    return getattr(base, "model", None) if base.base_model is base else base.base_model


def install(base: Any, scaling: LogitScaling | None) -> None:
    """Replaces a model's forward by one that takes `positions_P` and `targets_P` as well.

    Replaces `forward` on this one instance, the way TRL's `add_fused_lm_head` does (trl 1.16,
    trainer/utils.py): wrappers such as DDP and FSDP only see `forward`, and Transformers has no
    hook between the backbone and the head that works in chunks. Other calls pass through.

    Args:
        base: The model, without an adapter or with one inside.
        scaling: Of its logits behind the head; None: they are taken from its own forward.
    """
    original = base.forward
    sums = _logits_sums if scaling is None else _fused_sums

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
        part = original if scaling is None else backbone(self)
        call = functools.partial(part, *args, use_cache=False, **kwargs)
        found = sums(self, call, positions_P, targets_P, weights_P, with_entropy)
        return LossOutput(loss_sum=found[0], num_hits=found[1], entropy_sum=found[2])

    base.forward = types.MethodType(forward, base)
    if scaling is not None:
        _add_loss_to_head(base.get_output_embeddings(), scaling)


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


def _add_loss_to_head(head: Any, scaling: LogitScaling) -> None:
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
            scaling=scaling,
        )
        return sums.loss, sums.hits, sums.entropy  # ZeRO-3's hooks want a tuple

    head.forward = types.MethodType(forward, head)


def _whole(weight: Any) -> Any:
    """FSDP2 hands out shards; the head needs all of it. A head without bias has None."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
