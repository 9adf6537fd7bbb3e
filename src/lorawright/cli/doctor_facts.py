"""What is installed, what the machine has, and what `auto` would choose."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from lorawright import hardware, hub
from lorawright.cli import allocator
from lorawright.config.schema import Config
from lorawright.hardware import Device
from lorawright.plan import attention, settings
from lorawright.run.environment import environment


def examine() -> dict[str, Any]:
    """Versions, hardware, choices and notes, as `doctor --json` prints them."""
    facts = hardware.detect()
    config = Config.model_validate({"model": {"name": hub.TINY}})
    resolved = settings.settle(config, facts, hub.model_folder(hub.TINY), longest_tokens=1024)
    return {
        **environment(facts),
        "hardware": asdict(facts),
        "auto": {
            "dtype": f"{resolved.config.model.dtype} ({resolved.reasons['model.dtype']})",
            "optimizer": (
                f"{resolved.config.training.optimizer} ({resolved.reasons['training.optimizer']})"
            ),
            "attention": attention.describe(
                attention.of(resolved.config, facts, hub.model_folder(hub.TINY))
            ),
            "allocator": f"{allocator.choose(allocator.detect()).reason} (train, evaluate)",
            "threads": _threads(facts),
            "waiting": f"{hardware.describe_spin(os.environ)} (threads that wait for each other)",
        },
        "notes": _notes(facts),
    }


def _threads(facts: hardware.Hardware) -> str:
    given = os.environ.get("OMP_NUM_THREADS")
    why = f"OMP_NUM_THREADS={given}" if given else "OMP_NUM_THREADS is not set: torch decides"
    return f"{facts.num_threads} of {os.cpu_count()} CPU threads ({why})"


def _notes(facts: hardware.Hardware) -> list[str]:
    notes: list[str] = []
    if facts.device is Device.CUDA and find_spec("bitsandbytes") is None:
        notes.append("`pip install lorawright[quantization]` adds 8-bit Adam and QLoRA")
    if facts.device is Device.CUDA and attention.broken_flash_attn():
        notes.append("flash_attn is installed and cannot be imported; PyTorch's attention is used")
    elif facts.device is Device.CUDA and find_spec("flash_attn") is None:
        notes.append("FlashAttention is not installed; PyTorch's attention is used")
    if facts.device is Device.CUDA and not facts.bfloat16:
        notes.append("this GPU has no bfloat16 arithmetic: training runs in float16, with a scaler")
    if facts.device is Device.CPU and not facts.bfloat16:
        notes.append("this CPU has no bfloat16 arithmetic: training runs in float32")
    if os.environ.get("HF_ENDPOINT"):
        notes.append(f"HF_ENDPOINT is {os.environ['HF_ENDPOINT']}")
    return notes
