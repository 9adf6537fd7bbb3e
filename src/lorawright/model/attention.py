"""Queries, keys, values of a pass → attention within each chat, without an L x L mask.

    keys       | before | S S S S | a a a | b b |      before: from another pass, may be empty
    queries             | S S S S | a a a | b b |
    S sees      x x x x   causal
    a sees      x x x x   x x x x   causal
    b sees      x x x x   x x x x           causal     each segment its ancestors and itself

A layer may do more than causal: a sliding window, capped scores, sinks. It says so by keywords,
and each segment attends by them (segment.py). A layer that says anything else is refused.

Registered through Transformers' `AttentionInterface`; a name without a mask function makes the
model build no mask. What a pass looks like travels as a keyword of the model's forward.

Shapes: B batch (1), N query heads, M key heads, T tokens, K keys, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from lorawright.errors import ModelError
from lorawright.model import segment, varlen
from lorawright.model.segment import Masks, Rules
from lorawright.model.varlen import VarlenIndex
from lorawright.plan.attention import PACKED, Attention

NEUTRAL_KEYWORDS = {
    "position_ids", "position_embeddings", "is_causal", "cache_position", "use_cache",
    "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "layer_idx", "num_items_in_batch", "deterministic", "logits_to_keep",
}  # fmt: skip
"""Keywords of attention that change nothing here. Any other one with a value is a reason to stop:
a rule that is left out trains another model."""


class Prefixes(StrEnum):
    """What the attention does with keys and values that several passes of a step share."""

    NONE = "none"  # no prefix is shared with another pass
    COLLECT = "collect"  # keep this pass's
    USE = "use"  # put the kept ones before this pass's, and collect their gradient
    INJECT = "inject"  # give the collected gradient to this pass's


class SharedKeys:
    """Keys and values of one step's common segments, layer by layer.

    Leaves in float32: the gradients of many passes add up in them. Not a dataclass, nor is
    `PassShape`: FSDP2 copies the dataclasses it finds among a forward's keywords.
    """

    def __init__(self) -> None:
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def collect(self, layer: int, key_BMTD: torch.Tensor, value_BMTD: torch.Tensor) -> None:
        self.keys[layer] = key_BMTD.detach().float().requires_grad_()
        self.values[layer] = value_BMTD.detach().float().requires_grad_()

    def before(
        self, layer: int, key_BMTD: torch.Tensor, value_BMTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.cat([self.keys[layer].to(key_BMTD.dtype), key_BMTD], dim=2),
            torch.cat([self.values[layer].to(value_BMTD.dtype), value_BMTD], dim=2),
        )

    def inject(
        self, layer: int, key_BMTD: torch.Tensor, value_BMTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            _add_gradient(key_BMTD, self.keys[layer].grad),
            _add_gradient(value_BMTD, self.values[layer].grad),
        )


class _AddGradient(torch.autograd.Function):
    """The identity, whose gradient is that of its output plus a given one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0] + gradient).to(upstream[0].dtype), None


def _add_gradient(x: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    if gradient is None:  # no pass has used it
        return x
    added: torch.Tensor = _AddGradient.apply(x, gradient)  # type: ignore[no-untyped-call] # torch's
    return added


class PassShape:
    """Which keys each segment of a pass sees.

    Args:
        sizes: Tokens of each segment, in the pass's order.
        paths: For each segment, the segments it sees, itself last; those `before` count first.
        before: Sizes of segments whose keys come from the COLLECT pass.
        prefixes: What happens to shared keys.
        shared: Where they are kept during the step.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        paths: tuple[tuple[int, ...], ...],
        before: tuple[int, ...] = (),
        prefixes: Prefixes = Prefixes.NONE,
        shared: SharedKeys | None = None,
    ) -> None:
        self.sizes, self.paths, self.before = sizes, paths, before
        self.prefixes, self.shared = prefixes, shared
        self.index: VarlenIndex | None = None
        self.masks = Masks()

    @classmethod
    def plain(cls, *sizes: int) -> PassShape:
        """Chats side by side, nothing shared."""
        return cls(sizes, tuple((number,) for number in range(len(sizes))))


def pass_inputs(shape: PassShape, implementation: str) -> dict[str, Any]:
    """Keywords of the model's forward that tell the attention about a pass."""
    return {"pass_shape": shape} if implementation in PACKED else {}


def _required_shape(
    module: nn.Module,
    attention_mask: Any,
    pass_shape: PassShape | None,
    rules: Rules,
    others: dict[str, Any],
) -> PassShape:
    """The pass, if nothing beyond causal attention and the rules is asked for.

    Raises:
        ModelError: The model does not hand on what a pass is, or wants more than we know.
    """
    unknown = [
        name
        for name, value in others.items()
        if name not in NEUTRAL_KEYWORDS and value is not None and value is not False
    ]
    if attention_mask is not None:
        unknown.append("attention_mask")
    if others.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        unknown.append("is_causal: False")
    if rules.window is not None and rules.window < 1:
        unknown.append(f"sliding_window: {rules.window}")
    if pass_shape is not None and not unknown:
        return pass_shape
    layer = type(module).__name__
    raise ModelError(
        f"{layer} asks for more than causal attention: {', '.join(unknown)}"
        if unknown
        else f"{layer} does not hand on which tokens of a pass are one chat",
        where="model.name",
        hint=FALLBACK,
    )


FALLBACK = (
    "write `training.tokens_per_pass: 1` and `training.share_prefixes: false`: one chat at a "
    "time, by the model's own attention"
)


def _with_shared_keys(
    module: nn.Module, key_BMTD: torch.Tensor, value_BMTD: torch.Tensor, shape: PassShape
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values, after those that an earlier pass of the step has computed."""
    if shape.prefixes is Prefixes.NONE:
        return key_BMTD, value_BMTD
    layer: int = module.layer_idx  # type: ignore[assignment] # Transformers' attention has it
    assert shape.shared is not None
    if shape.prefixes is Prefixes.COLLECT:
        shape.shared.collect(layer, key_BMTD, value_BMTD)
        return key_BMTD, value_BMTD
    if shape.prefixes is Prefixes.USE:
        return shape.shared.before(layer, key_BMTD, value_BMTD)
    return shape.shared.inject(layer, key_BMTD, value_BMTD)


def attend(
    module: nn.Module,
    query_BNTD: torch.Tensor,
    key_BMTD: torch.Tensor,
    value_BMTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    pass_shape: PassShape | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Each segment attends to its ancestors and to itself, by PyTorch's own attention.

    Args:
        module: The layer.
        query_BNTD: The pass's.
        key_BMTD: The pass's.
        value_BMTD: The pass's.
        attention_mask: None; anything else is refused.
        scaling: Of scores; None: one over the root of D.
        dropout: Of probabilities.
        sliding_window: Most tokens of its chat that a token sees, itself among them.
        softcap: What scores are capped by.
        s_aux: (N,): sinks, scores without a value.
        pass_shape: What a pass is.
        others: Refused where they change anything.

    Returns:
        The output as (B, T, N, D), and no weights.
    """
    rules = Rules(sliding_window or None, softcap or None, s_aux, dropout, scaling)
    shape = _required_shape(module, attention_mask, pass_shape, rules, others)
    key_BMKD, value_BMKD = _with_shared_keys(module, key_BMTD, value_BMTD, shape)
    # split, not sliced: a slice's gradient is a whole tensor of zeros with the slice in it
    queries = torch.split(query_BNTD, list(shape.sizes), dim=2)
    keys = torch.split(key_BMKD, [*shape.before, *shape.sizes], dim=2)
    values = torch.split(value_BMKD, [*shape.before, *shape.sizes], dim=2)
    outputs = [
        segment.attended(query, _joined(keys, path), _joined(values, path), rules, shape.masks)
        for query, path in zip(queries, shape.paths, strict=True)
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous(), None  # AFMoE takes a view of it


def _joined(parts: Sequence[torch.Tensor], path: tuple[int, ...]) -> torch.Tensor:
    return parts[path[0]] if len(path) == 1 else torch.cat([parts[n] for n in path], dim=2)


def attend_varlen(
    module: nn.Module,
    query_BNTD: torch.Tensor,
    key_BMTD: torch.Tensor,
    value_BMTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    pass_shape: PassShape | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The same in one call of a varlen kernel, keys gathered segment by segment.

    These kernels align the causal mask with the ends of queries and keys (FlashAttention 2.1 and
    later, its README), which is what a segment after its ancestors needs. A layer with a rule
    that the kernel has not attends segment by segment.
    """
    rules = Rules(sliding_window or None, softcap or None, s_aux, dropout, scaling)
    if not varlen.takes(rules):
        return attend(
            module, query_BNTD, key_BMTD, value_BMTD, attention_mask, scaling=scaling,
            dropout=dropout, sliding_window=sliding_window, softcap=softcap, s_aux=s_aux,
            pass_shape=pass_shape, **others,
        )  # fmt: skip
    shape = _required_shape(module, attention_mask, pass_shape, rules, others)
    key_BMKD, value_BMKD = _with_shared_keys(module, key_BMTD, value_BMTD, shape)
    if shape.index is None:
        sizes = (*shape.before, *shape.sizes)
        shape.index = VarlenIndex.of(shape.sizes, sizes, shape.paths, query_BNTD.device)
    kernel = varlen.kernel()
    output_TND = kernel(
        query_BNTD[0].transpose(0, 1),
        key_BMKD[0].index_select(1, shape.index.keys).transpose(0, 1),
        value_BMKD[0].index_select(1, shape.index.keys).transpose(0, 1),
        shape.index,
        rules,
    )
    return output_TND[None], None


AttentionInterface.register(Attention.SEGMENTS, attend)
AttentionInterface.register(Attention.VARLEN, attend_varlen)
