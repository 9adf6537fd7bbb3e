"""A PEFT model → the same model with fused LoRA: one product for adapters that read one input.

    PEFT, a layer of q, k, v            here
    drop(x) A_q  B_q  scale  add        drop(x) [A_q A_k A_v]      one product, one dropout mask
    drop(x) A_k  B_k  scale  add        q += scale h_q B_q         added to the base's output
    drop(x) A_v  B_v  scale  add        k += scale h_k B_k
                                        v += scale h_v B_v

The adapter stays a PEFT adapter: this is a `LoraVariant`, PEFT's own hook for another forward
(peft 0.21, tuners/lora/layer.py), put on the layers of a model in training and never saved.

Shapes: T tokens, H inputs of a layer, O its outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant, ParamWrapper
from torch import nn

from lorawright.model.dropout import KeyedDropout, masked, siblings


class _DownProjection(torch.autograd.Function):
    """x → drop(x) A for each of several A, as one product."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TH: torch.Tensor,
        kept_TH: torch.Tensor | None,
        scale: float,
        *weights_RH: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        # the small weights are scaled, not the wide input
        joined_RH = torch.cat([weight.mul(scale).to(x_TH.dtype) for weight in weights_RH])
        dropped_TH = x_TH if kept_TH is None else masked(x_TH, kept_TH)
        ctx.save_for_backward(dropped_TH, kept_TH, joined_RH)
        ctx.scale = scale
        ctx.ranks = [len(weight) for weight in weights_RH]
        ctx.dtypes = [weight.dtype for weight in weights_RH]
        return torch.split(dropped_TH @ joined_RH.T, ctx.ranks, dim=-1)

    @staticmethod
    def backward(ctx: Any, *upstream_TR: torch.Tensor) -> tuple[Any, ...]:
        dropped_TH, kept_TH, joined_RH = ctx.saved_tensors
        joined_TR = torch.cat(upstream_TR, dim=-1)
        gradients_RH = torch.split(joined_TR.T @ dropped_TH, ctx.ranks)
        x_gradient_TH = None
        if ctx.needs_input_grad[0]:
            x_gradient_TH = joined_TR @ joined_RH
            if kept_TH is not None:
                x_gradient_TH = masked(x_gradient_TH, kept_TH)
        given = (
            g.to(dtype).mul_(ctx.scale) for g, dtype in zip(gradients_RH, ctx.dtypes, strict=True)
        )
        return x_gradient_TH, None, None, *given


class _UpProjection(torch.autograd.Function):
    """base + scaling * h B, one product with the sum in it."""

    @staticmethod
    def forward(
        ctx: Any,
        base_TO: torch.Tensor,
        hidden_TR: torch.Tensor,
        weight_OR: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        narrow_OR = weight_OR.to(hidden_TR.dtype)
        ctx.save_for_backward(hidden_TR, narrow_OR)
        ctx.scaling, ctx.dtype = scaling, weight_OR.dtype
        return torch.addmm(base_TO, hidden_TR, narrow_OR.T, alpha=scaling)

    @staticmethod
    def backward(
        ctx: Any, *upstream_TO: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        hidden_TR, narrow_OR = ctx.saved_tensors
        hidden_gradient_TR = (upstream_TO[0] @ narrow_OR).mul_(ctx.scaling)
        # this way round the product is 2.5 times as fast as upstream.T @ hidden (AVX512-bf16)
        weight_gradient_OR = (hidden_TR.T @ upstream_TO[0]).T.to(ctx.dtype).mul_(ctx.scaling)
        return upstream_TO[0], hidden_gradient_TR, weight_gradient_OR, None


@dataclass
class _Group:
    """Layers that read one input, and the products that the first of them has computed.

    Attributes:
        layers: In the order they are called in.
        last_input: What `hidden` was computed from; PEFT gives the layers of a group one object.
        hidden: Layer's place → its h, (T, R).
    """

    layers: tuple[LoraLayer, ...]
    last_input: torch.Tensor | None = None
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)

    def down(self, layer: LoraLayer, adapter: str, x: torch.Tensor) -> torch.Tensor:
        place = self.layers.index(layer)
        if self.last_input is not x or place not in self.hidden:
            self.hidden = dict(enumerate(self._product(adapter, x)))
            self.last_input = x
        found = self.hidden.pop(place)
        if not self.hidden:
            self.last_input = None  # nothing is kept alive after the last of the group
        return found

    def _product(self, adapter: str, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x_TH = x.reshape(-1, x.shape[-1])
        weights = [layer.lora_A[adapter].weight for layer in self.layers]
        dropout = self.layers[0].lora_dropout[adapter]
        kept_TH, scale = None, 1.0
        if isinstance(dropout, KeyedDropout) and dropout.training and dropout.rate > 0:
            kept_TH = dropout.keep_mask(len(x_TH), x_TH.shape[1], x.device)
            scale = 1 / (1 - dropout.rate)
        hidden: tuple[torch.Tensor, ...] = _DownProjection.apply(  # type: ignore[no-untyped-call] # torch's
            x_TH, kept_TH, scale, *weights
        )
        return hidden


class FusedLoraVariant(LoraVariant):  # type: ignore[misc] # peft is followed loosely
    """The forward that PEFT calls in place of its own sum.

    Args:
        group: The layers that read one input with this one.
    """

    def __init__(self, group: _Group) -> None:
        self.group = group

    def forward(
        self, module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            hidden_TR = self.group.down(module, active_adapter, x.to(result.dtype))
            output_TO: torch.Tensor = _UpProjection.apply(  # type: ignore[no-untyped-call] # torch's
                result.reshape(-1, result.shape[-1]),
                hidden_TR,
                module.lora_B[active_adapter].weight,
                module.scaling[active_adapter],
            )
        return output_TO.view(result.shape)


def install(model: PeftModel) -> None:
    """Fuses a model's plain LoRA layers; layers with a variant of their own (DoRA) stay.

    Not for ZeRO-3: there a weight is whole only inside its own module's forward.
    """
    for group in _groups(model):
        for layer in group.layers:
            for adapter in layer.lora_A:
                layer.lora_variant[adapter] = FusedLoraVariant(group)


def _groups(model: nn.Module) -> Iterator[_Group]:
    for layers in siblings(model):
        plain = tuple(layer for layer in layers if _is_plain(layer))
        if plain:
            yield _Group(plain)


def _is_plain(layer: LoraLayer) -> bool:
    """Over a linear layer, without a bias or variant of its own.

    PEFT adds to a parameter before its module computes: there is no output to add to.
    """
    if isinstance(layer, ParamWrapper):
        return False
    return bool(layer.lora_A) and not layer.lora_variant and not any(layer.lora_bias.values())
