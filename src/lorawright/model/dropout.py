"""An adapter's input → the input with dropout, whose mask depends on a key and not on packing.

    pass           | chat 7, 40 tokens | chat 2, 25 tokens |
    mask of q_proj  mask(step, 7, q)    mask(step, 2, q)      the same in any pass, on any rank

The key is (seed, step, chat, token, adapter): packing, processes and a resume leave a step as it
is, also with dropout. A prefix that several chats of a step share has one mask, that of the chat
with the smallest number. Adapters that read one input (q, k, v; gate, up) share its mask: four a
layer instead of PEFT's seven. Each adapter still sees an independent mask at every token, feature
and step, as in the LoRA paper.

The adapter stays a PEFT adapter: only the modules in its `lora_dropout` are exchanged.

Shapes: T tokens of a pass, H inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

BITS = 15  # of randomness an element; a rate is met to within 1 / 65,536
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names, in Transformers' decoders, of layers that read one input."""

ELEMENTS_PER_COUNT = 16  # Philox4x64 makes four words of 64 bits a count
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element → integers of that size."""


@dataclass
class DropoutState:
    """What all dropouts of a model share: the step, the pass, and the last output.

    Attributes:
        seed: Of the run.
        step: The optimizer step.
        segments: (chat, start, end) of the pass's parts; empty outside of training.
    """

    seed: int
    step: int = 0
    segments: Sequence[tuple[int, int, int]] = ()
    last_input: torch.Tensor | None = None
    last_output: torch.Tensor | None = None

    def begin_pass(self, step: int, segments: Sequence[tuple[int, int, int]]) -> None:
        """Called before each training pass."""
        self.step, self.segments = step, segments
        self.last_input = self.last_output = None


def masked(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """x where `kept` is -1 (all bits), zero where it is 0, by a bitwise and.

    For 1,473 x 4,864 bfloat16 values 0.6 ms on two CPU cores, 4.3 ms as a product with booleans,
    which PyTorch first makes a tensor of numbers from.
    """
    integers = INTEGERS[x.element_size()]
    return torch.bitwise_and(x.view(integers), kept.to(integers)).view(x.dtype)


class _MaskedScale(torch.autograd.Function):
    """x times scale where kept; the mask costs a byte an element."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return masked(x, kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return masked(upstream[0], kept).mul_(ctx.scale), None, None


class KeyedDropout(nn.Module):
    """Dropout of one adapter's input.

    Args:
        rate: Share of elements set to zero.
        number: The adapter's, its part of the key.
        state: Shared by all adapters of the model.
    """

    def __init__(self, rate: float, number: int, state: DropoutState) -> None:
        super().__init__()
        self.rate, self.number, self.state = rate, number, state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of shape (…, T, H), T the tokens of the pass."""
        if not self.training or self.rate == 0:
            return x
        state = self.state
        if state.last_input is not x or state.last_output is None:
            kept = self.keep_mask(x.shape[-2], x.shape[-1], x.device)
            state.last_output = _MaskedScale.apply(  # type: ignore[no-untyped-call] # torch's own
                x, kept.view(x.shape), 1 / (1 - self.rate)
            )
            state.last_input = x
        assert state.last_output is not None
        return state.last_output

    def keep_mask(self, num_tokens: int, width: int, device: torch.device) -> torch.Tensor:
        """(T, H) of int8, -1 where an element is kept, else 0, made chat by chat."""
        state = self.state
        parts = [
            _random_bits(
                (state.seed, state.step, chat, self.number), start * width, end * width, device
            )
            for chat, start, end in state.segments
        ]
        assert sum(map(len, parts)) == num_tokens * width, "begin_pass was not called for this pass"
        bits = torch.cat(parts).view(num_tokens, width)
        # less the share that is kept: negative, all ones after the shift, in a fifth of the time
        # that a comparison takes
        bits.bitwise_and_(2**BITS - 1).sub_(round((1 - self.rate) * 2**BITS))
        return bits.bitwise_right_shift_(BITS).to(torch.int8)


def _random_bits(
    key: tuple[int, int, int, int], start: int, end: int, device: torch.device
) -> torch.Tensor:
    """Elements start to end of a stream of int16 values that depends on the key alone.

    Their lowest `BITS` bits are uniform. On a CPU four elements a word and four words a count of
    Philox, a counter-based generator (Salmon et al., SC 2011), which begins anywhere and needs no
    state to be saved; on other devices torch's generator there, seeded by the key, from the
    stream's start.
    """
    seed, step, chat, number = key
    if device.type == "cpu":
        block, skipped = divmod(start, ELEMENTS_PER_COUNT)
        philox = np.random.Philox(key=[seed << 32 | step, chat << 32 | number], counter=block)
        words = philox.random_raw(-(-(skipped + end - start) // 4))
        return torch.from_numpy(words.view(np.int16)[skipped : skipped + end - start])
    mixed = np.random.Philox(key=[seed << 32 | step, chat << 32 | number]).random_raw()
    generator = torch.Generator(device).manual_seed(int(mixed) >> 1)
    stream = torch.randint(2**BITS, (end,), dtype=torch.int16, device=device, generator=generator)
    return stream[start:]


def install(model: PeftModel, rate: float, seed: int) -> DropoutState:
    """Gives all adapters of a model keyed dropout, and keeps their inputs in the base's dtype.

    PEFT copies each adapter's input to float32 first; under autocast the product is done in the
    base's dtype all the same. Its own switch for that is `cast_input_dtype_enabled`.
    """
    state = DropoutState(seed)
    numbers = {module: n for n, module in enumerate(_lora_layers(model))}
    for layers in siblings(model):
        for layer in layers:
            layer.cast_input_dtype_enabled = False
            for name in layer.lora_dropout:
                # ZeRO-3 gives each layer another object for the same input; the number is one
                layer.lora_dropout[name] = KeyedDropout(rate, numbers[layers[0]], state)
    return state


def siblings(model: nn.Module) -> Iterator[tuple[LoraLayer, ...]]:
    """All LoRA layers of a model; those that read one input together, in the order of calls."""
    grouped: set[LoraLayer] = set()
    for parent in model.modules():
        children = dict(parent.named_children())
        for names in SIBLINGS:
            found = (children.get(name) for name in names)
            layers = tuple(layer for layer in found if isinstance(layer, LoraLayer))
            if layers:
                grouped.update(layers)
                yield layers
    yield from ((layer,) for layer in _lora_layers(model) if layer not in grouped)


def _lora_layers(model: nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def state_of(model: nn.Module) -> DropoutState | None:
    """The state of a model that `install` was called for; None without keyed dropout."""
    for module in model.modules():
        if isinstance(module, KeyedDropout):
            return module.state
    return None
