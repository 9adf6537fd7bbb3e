"""The output head and the loss, at trained positions only, in chunks.

    hidden_TH ──pick──► hidden_PH ──chunks──► logits_CV ──► sum of -log p(target), hits
                                              never more than CHUNK x vocabulary at once

For Qwen2.5-0.5B the head is 136 M of 494 M parameters; most positions of a chat are not trained.
Its weight is frozen, so the gradient of the hidden states is all there is: it is made chunk by
chunk in the forward pass, in place, in buffers that serve all chunks; the logits are never kept or
computed again. A target that several chats of a shared prefix train counts once for each.

Shapes: T tokens of the pass, P trained positions, C positions of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.utils import ModelOutput

from lorawright.plan import architecture

CHUNK = 256  # most rows; below it the product slows down: 390 GFLOP/s at 256 to 1024, 360 at 128


@dataclass
class HeadOutput(ModelOutput):  # type: ignore[misc] # transformers is followed loosely
    """What a training pass gives back.

    Attributes:
        loss_sum: Sum over trained positions of -log p(target).
        num_hits: Trained positions where the target is the most likely token.
        entropy_sum: Sum over trained positions of the distribution's entropy, or 0.
    """

    loss_sum: torch.Tensor | None = None
    num_hits: torch.Tensor | None = None
    entropy_sum: torch.Tensor | None = None


class Sums(NamedTuple):
    """Over P positions, each counted by its weight; a tuple, for hooks on the head's output."""

    loss: torch.Tensor
    hits: torch.Tensor
    entropy: torch.Tensor


class _ChunkedLoss(torch.autograd.Function):
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
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gradient_PH = torch.empty_like(hidden_PH) if hidden_PH.requires_grad else None
        sums = torch.zeros(3, dtype=sum_dtype(hidden_PH.device), device=hidden_PH.device)
        for chunk in _chunks(len(targets_P)):
            targets_C, weights_C = targets_P[chunk], weights_P[chunk]
            logits_CV = buffers.logits(hidden_PH[chunk], weight_VH, bias_V)
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
                gradient_PH[chunk] = buffers.narrow(logits_CV, weight_VH) @ weight_VH
        ctx.save_for_backward(gradient_PH)
        loss, hits, entropy = sums.float().unbind()
        ctx.mark_non_differentiable(hits, entropy)
        return loss, hits, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[torch.Tensor | None, ...]:
        (gradient_PH,) = ctx.saved_tensors
        scaled_PH = gradient_PH * upstream[0].to(gradient_PH.dtype)
        return scaled_PH, None, None, None, None, None, None


def _chunks(num_positions: int) -> list[slice]:
    """Equal chunks: a short last one would read the whole weight for a few rows."""
    size = -(-num_positions // max(1, -(-num_positions // CHUNK)))
    return [slice(start, start + size) for start in range(0, num_positions, max(1, size))]


class Buffers:
    """Room for one chunk's logits in the head's numbers and in float32, for all chunks and steps.

    Fresh memory for each step is a gigabyte of page faults: a tenth of a step on a CPU.
    """

    def __init__(self) -> None:
        self._kept: dict[torch.dtype, torch.Tensor] = {}

    def _room(self, num_rows: int, weight_VH: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        kept = self._kept.get(dtype)
        if kept is None or kept.shape[1] != len(weight_VH) or kept.device != weight_VH.device:
            kept = weight_VH.new_empty((CHUNK, len(weight_VH)), dtype=dtype)
            self._kept[dtype] = kept
        return kept[:num_rows]

    def logits(
        self, hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None
    ) -> torch.Tensor:
        """The chunk's logits in float32."""
        own_CV = self._room(len(hidden_CH), weight_VH, weight_VH.dtype)
        torch.mm(hidden_CH.to(weight_VH.dtype), weight_VH.T, out=own_CV)
        if bias_V is not None:
            own_CV += bias_V
        if own_CV.dtype is torch.float32:
            return own_CV
        return self._room(len(hidden_CH), weight_VH, torch.float32).copy_(own_CV)

    def narrow(self, float_CV: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
        """The float32 buffer in the head's numbers."""
        if weight_VH.dtype is torch.float32:
            return float_CV
        return self._room(len(float_CV), weight_VH, weight_VH.dtype).copy_(float_CV)


def _mean_logit(logits_CV: torch.Tensor) -> torch.Tensor:
    """Expected logit under the distribution: its entropy is log(total) less this."""
    return (logits_CV.softmax(-1) * logits_CV).sum(-1)


def chunked_loss(
    hidden_PH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_P: torch.Tensor,
    weights_P: torch.Tensor | None = None,
    *,
    with_entropy: bool = False,
    buffers: Buffers | None = None,
) -> Sums:
    """Sums over P positions.

    Args:
        hidden_PH: The backbone's output at the positions.
        weight_VH: The head's, frozen.
        bias_V: The head's, or None.
        targets_P: Token ids.
        weights_P: How many times each position counts; 1 by default.
        with_entropy: Also sum entropies; costs another softmax.
        buffers: Room kept from step to step; made anew by default.
    """
    if weights_P is None:
        weights_P = torch.ones(len(targets_P), device=hidden_PH.device)
    with torch.autocast(hidden_PH.device.type, enabled=False):
        loss, hits, entropy = _ChunkedLoss.apply(  # type: ignore[no-untyped-call] # torch's own
            hidden_PH, weight_VH, bias_V, targets_P, weights_P, with_entropy, buffers or Buffers()
        )
    return Sums(loss, hits, entropy)


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
    for chunk in _chunks(len(targets_P)):
        targets_C = targets_P[chunk]
        logits_CV = nn.functional.linear(
            hidden_PH[chunk].to(weight_VH.dtype), weight_VH, bias_V
        ).float()
        losses.append(nn.functional.cross_entropy(logits_CV, targets_C, reduction="none"))
        hits.append(logits_CV.argmax(-1) == targets_C)
    return torch.cat(losses), torch.cat(hits)


class Loss(StrEnum):
    """Where the logits of a training pass come from."""

    CHUNKED = "chunked"  # a product with the head's weight, made and forgotten in chunks
    OWN = "own"  # the model's forward: scaled, capped or otherwise changed behind the head


def fits(model: Any) -> bool:
    """Whether the head is a plain product, by what the config says: no scaled or capped logits."""
    return architecture.scaled_logits(model.config) is None


EXACT_LOGITS, ROUGH_LOGITS = 1e-5, 0.02
"""Most that a product's logits and the model's differ by, as a share of a row's size: in float32,
and in 16 bits or quantized."""


@torch.no_grad()
def measure(model: Any) -> Loss:
    """Whether a model's logits are its head's plain product, by computing both.

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
        return Loss.OWN
    own_TV = base(ids_BT, use_cache=False).logits[0]
    hidden_TH = backbone(base)(ids_BT, use_cache=False).last_hidden_state[0]
    exact = base.dtype is torch.float32 and not getattr(base, "is_quantized", False)
    most = EXACT_LOGITS if exact else ROUGH_LOGITS
    plain = fits(base) and apart(output(hidden_TH.to(output.weight.dtype)), own_TV) <= most
    return Loss.CHUNKED if plain else Loss.OWN


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Median over rows of a difference's size as a share of the row's."""
    found, expected = found.float(), expected.float()
    shares = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)
    return float(shares.median())


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64 for long sums, where there is one: Apple's GPUs have none (pytorch #122602)."""
    return torch.float32 if device.type == "mps" else torch.float64


def backbone(base: Any) -> Any:
    """The part before the head, or None; Llama 4's prefix names another class than its own."""
    return getattr(base, "model", None) if base.base_model is base else base.base_model


def install(base: Any, loss: Loss) -> None:
    """Teaches a causal model to answer `positions_P` and `targets_P` with a `HeadOutput`.

    Replaces `forward` on this one instance, the way TRL's `add_fused_lm_head` does (trl 1.16,
    trainer/utils.py): wrappers such as DDP and FSDP only see `forward`, and Transformers has no
    hook between the backbone and the head that works in chunks. Other calls pass through.

    Args:
        base: The model, without an adapter or with one inside.
        loss: Where its logits come from, see `selfcheck.settle`.
    """
    passed_on = base.forward
    sums = _chunked_sums if loss is Loss.CHUNKED else _own_sums

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
            return passed_on(*args, **kwargs)
        if weights_P is None:
            weights_P = torch.ones(len(targets_P), device=targets_P.device)
        call = functools.partial(
            backbone(self) if loss is Loss.CHUNKED else passed_on, *args, use_cache=False, **kwargs
        )
        found = sums(self, call, positions_P, targets_P, weights_P, with_entropy)
        return HeadOutput(loss_sum=found[0], num_hits=found[1], entropy_sum=found[2])

    base.forward = types.MethodType(forward, base)
    if loss is Loss.CHUNKED:
        _score_inside(base.get_output_embeddings())


def _chunked_sums(
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


def _own_logits(base: Any, call: Any, positions_P: torch.Tensor) -> torch.Tensor:
    if "logits_to_keep" in inspect.signature(type(base).forward).parameters:
        kept_PV: torch.Tensor = call(logits_to_keep=positions_P).logits[0]
        return kept_PV
    logits_TV: torch.Tensor = call().logits[0]
    return logits_TV[positions_P]


@torch.no_grad()
def own_token_losses(
    model: Any, ids_T: torch.Tensor, positions_P: torch.Tensor, targets_P: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `token_losses`, of one chat, from the model's own logits."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    call = functools.partial(base, ids_T[None], use_cache=False)
    logits_PV = _own_logits(base, call, positions_P).float()
    losses_P = nn.functional.cross_entropy(logits_PV, targets_P, reduction="none")
    return losses_P, logits_PV.argmax(-1) == targets_P


def _own_sums(
    base: Any,
    call: Any,
    positions_P: torch.Tensor,
    targets_P: torch.Tensor,
    weights_P: torch.Tensor,
    with_entropy: bool,
) -> tuple[torch.Tensor, ...]:
    """The same from the model's own logits, all of a pass at once."""
    log_PV = _own_logits(base, call, positions_P).float().log_softmax(-1)
    numbers = sum_dtype(log_PV.device)
    losses_P = -log_PV.gather(-1, targets_P[:, None])[:, 0]
    hits_P = (log_PV.detach().argmax(-1) == targets_P).to(numbers)
    entropy = torch.zeros((), device=log_PV.device)
    if with_entropy:
        with torch.no_grad():
            entropy = -(weights_P * (log_PV.exp() * log_PV).sum(-1)).sum()
    return (weights_P * losses_P.to(numbers)).sum().float(), (weights_P * hits_P).sum(), entropy


def _score_inside(head: Any) -> None:
    """Teaches the head's module to answer `targets_P` with sums.

    ZeRO-3 and FSDP2 hold a share of each weight and gather it around its module's own forward.
    """
    passed_on = head.forward
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
            return passed_on(hidden_PH)
        weight_VH, bias_V = _whole(self.weight), _whole(self.bias)
        sums = chunked_loss(
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
