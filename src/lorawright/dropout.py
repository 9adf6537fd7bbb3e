"""Dropout on the adapters' inputs, drawn once for all adapters that read the same tensor.

    x ─► dropout ─┬─► A_q ─► B_q        q, k and v read one input, gate and up another:
                  ├─► A_k ─► B_k        four draws a layer instead of PEFT's seven
                  └─► A_v ─► B_v

Each adapter's update still sees an independent draw at every token, feature and step, as in the
LoRA paper; that siblings share theirs leaves every expectation as it is. The adapter stays a PEFT
adapter: only the modules in its `lora_dropout` are exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

BITS = 16  # of randomness an element; a rate is met to within 1 / 65,536


class _MaskedScale(torch.autograd.Function):
    """x times scale where kept; the mask costs a byte an element."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * scale).mul_(kept)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return (upstream[0] * ctx.scale).mul_(kept), None, None


class SharedDropout(nn.Module):
    """One for a whole model: called again with the tensor it saw last, it gives the same output.

    Args:
        rate: Share of elements set to zero.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        if self._input is not x or self._output is None:
            self._input, self._output = x, self._drop(x)
        return self._output

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.rate)
        dropped: torch.Tensor = _MaskedScale.apply(  # type: ignore[no-untyped-call] # torch's own
            x, keep_mask(x.shape, self.rate), 1 / (1 - self.rate)
        )
        return dropped


def keep_mask(shape: torch.Size, rate: float) -> torch.Tensor:
    """True with probability 1 - rate.

    Four elements a random integer of torch's generator: on a CPU a fifth of what `bernoulli_`
    takes, which draws one by one (docs/log.md).
    """
    num_elements = shape.numel()
    words = torch.empty(-(-num_elements // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:num_elements].view(shape)
    kept: torch.Tensor = bits >= round(rate * 2**BITS) - 2 ** (BITS - 1)
    return kept


def share(model: PeftModel, rate: float) -> None:
    """Gives all adapters of a model one dropout, and keeps their inputs in the base's numbers.

    PEFT copies each adapter's input to float32 first; under autocast the product is done in the
    base's numbers all the same. Its own switch for that is `cast_input_dtype_enabled`.
    """
    shared = SharedDropout(rate)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
            for name in module.lora_dropout:
                module.lora_dropout[name] = shared
