"""Facts of model and GPU → the attention that a run trains with."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lorawright.config.schema import Config, Dtype
from lorawright.hardware import Device, Hardware
from lorawright.plan import architecture
from lorawright.plan.architecture import Architecture, Rule


class Attention(StrEnum):
    """An attention; the values of ours are its names in Transformers' `AttentionInterface`.

    OWN: What Transformers chooses for a model: `sdpa`, or `eager` where its class has no other.
    SEGMENTS: PyTorch's attention, one call a segment of a pass.
    VARLEN: One call of a kernel for segments of any length, all of a pass at once.
    """

    OWN = "own"
    SEGMENTS = "lorawright"
    VARLEN = "lorawright_varlen"


PACKED = (Attention.SEGMENTS, Attention.VARLEN)
"""Attentions that keep the chats of a pass apart."""


class VarlenKernel(StrEnum):
    """Where the kernel for segments of any length comes from.

    FLASH_ATTN: The package flash_attn.
    PYTORCH: `torch.nn.attention.varlen`.
    """

    FLASH_ATTN = "flash_attn"
    PYTORCH = "pytorch"


KERNEL_RULES = {
    VarlenKernel.FLASH_ATTN: {Rule.WINDOW, Rule.CAP},
    VarlenKernel.PYTORCH: {Rule.WINDOW},
}
KERNEL_DTYPES = (Dtype.FLOAT16, Dtype.BFLOAT16)  # of FlashAttention
KERNEL_CAPABILITY = 80  # Ampere: FlashAttention's first, also inside PyTorch


def of(config: Config, hardware: Hardware, folder: Path) -> Attention:
    """The attention that a resolved config trains with.

    One chat a pass with nothing shared asks nothing of it, so the model's own serves: a way out
    for families that ours does not fit.

    Args:
        config: Without `auto`.
        hardware: Where it trains.
        folder: The model's.
    """
    if config.training.tokens_per_pass == 1 and not config.training.share_prefixes:
        return Attention.OWN
    known = architecture.read(folder, trust_remote_code=config.model.trust_remote_code)
    return choose(known, hardware.device, config.model.dtype, hardware.capability)


def choose(known: Architecture, device: Device, dtype: Dtype, capability: int) -> Attention:
    """The attention to train a model with.

    One varlen FlashAttention call a layer where the GPU, the dtype and the kernel allow it;
    PyTorch's own attention segment by segment elsewhere; the model's own, and no shared prefixes,
    for models whose attention has rules that it does not hand on (chunks), cannot be exchanged,
    or is not all that carries something from token to token.

    Args:
        known: Facts of the model.
        device: Where it trains.
        dtype: Of the base; resolved.
        capability: Of the GPU, see `Hardware.capability`.
    """
    if known.hidden_rules or not known.exchangeable or known.state is not None:
        return Attention.OWN
    fits = known.fits_kernels and dtype in KERNEL_DTYPES and capability >= KERNEL_CAPABILITY
    kernel = varlen_kernel() if device is Device.CUDA and fits else None
    if kernel is not None and known.rules <= KERNEL_RULES[kernel]:
        return Attention.VARLEN
    return Attention.SEGMENTS


def describe(chosen: Attention) -> str:
    """What `choose` has chosen, for people."""
    if chosen is Attention.VARLEN:
        works = varlen_kernel() is VarlenKernel.FLASH_ATTN
        return "FlashAttention varlen" if works else "PyTorch's varlen attention"
    return "PyTorch's, chat by chat" if chosen is Attention.SEGMENTS else "the model's own"


@cache
def varlen_kernel() -> VarlenKernel | None:
    """The best varlen kernel that works here.

    Installed is not enough: a build for another PyTorch fails when it is imported, and
    FlashAttention 4 puts a package of the same name there without this function.
    """
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError):
        return VarlenKernel.PYTORCH if find_spec("torch.nn.attention.varlen") else None
    return VarlenKernel.FLASH_ATTN


def broken_flash_attn() -> bool:
    """Whether flash_attn is there and does not work."""
    return find_spec("flash_attn") is not None and varlen_kernel() is not VarlenKernel.FLASH_ATTN
