"""Parts of the model that torch.compile makes faster: the norms, which all share one graph.

A norm is six passes over its input as PyTorch runs it, one when compiled: 4.8 ms against 1.3 ms for
1,500 x 896 bfloat16 values, forward and backward, on two CPU cores. The compiler takes 20 seconds
first, so it pays in long runs only.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lorawright.hardware import Device

COMPILE_SECONDS = 20.0  # first compilation of a norm, forward and backward, two CPU cores
SAVED_SHARE = 0.015  # of a step of Qwen2.5-0.5B with 1,500 tokens, see docs/log.md


def pays(wish: bool | str, planned_seconds: float | None, device: Device) -> tuple[bool, str]:
    """Whether to compile, and why.

    Args:
        wish: `training.compile` as true, false or `auto`.
        planned_seconds: The run's estimate; None where there is none.
        device: Where it runs; a CPU needs a C++ compiler.
    """
    if wish != "auto":
        return wish is True, "as written"
    if device is Device.CPU and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return False, "no C++ compiler on this machine"
    if planned_seconds is None or planned_seconds * SAVED_SHARE < 2 * COMPILE_SECONDS:
        return False, "the run is too short for it to pay"
    return True, f"saves about {planned_seconds * SAVED_SHARE:.0f} s of the run"


def install(model: nn.Module, device: Device) -> str | None:
    """Compiles the norms; a norm that cannot be compiled leaves the model as it was.

    Returns:
        What went wrong, for the user, or None.
    """
    norms = list(_norms(model))
    if not norms:
        return "this model has no norms to compile"
    for norm in norms:
        norm.compile(dynamic=True)
    try:
        _try(norms[0], device)
    except (RuntimeError, OSError) as error:
        for norm in norms:
            norm._compiled_call_impl = None  # what `nn.Module.compile` sets (torch 2.13)
        return f"torch.compile fails here, going on without: {str(error).splitlines()[0][:120]}"
    return None


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if type(module).__name__.endswith(("RMSNorm", "LayerNorm")):
            yield module


def _try(norm: Any, device: Device) -> None:
    """Two lengths, forward and backward, so that the graph is made for any length."""
    weight: torch.Tensor = norm.weight
    for num_tokens in (24, 40):
        shape = (1, num_tokens, len(weight))
        x_BTH = torch.ones(shape, dtype=weight.dtype, device=device.value, requires_grad=True)
        norm(x_BTH).sum().backward()
