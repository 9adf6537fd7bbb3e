"""A base and `lora` settings → a PEFT model whose LoRA matrices alone are trained, in float32.

    base (float32, 16 bits or quantized, frozen)  +  LoRA matrices (float32, under autocast)

The adapter is float32 whatever the base is: at learning rate 2e-5 an update is about 1e-3 of a
weight, below bfloat16's resolution of 4e-3, so a bfloat16 adapter does not move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lorawright.config.schema import LoraSettings
from lorawright.errors import ModelError
from lorawright.model import dropout, fused_lora
from lorawright.model.load import first_line
from lorawright.plan import adapted

PEFT_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}


@dataclass(frozen=True, slots=True)
class Trainable:
    """Numbers of parameters: of those that are trained, and of all."""

    num_trainable: int
    num_total: int


def lora_fields(settings: LoraSettings) -> dict[str, Any]:
    """The `lora` section of a config as fields of PEFT's LoraConfig."""
    fields = {PEFT_NAMES.get(name, name): value for name, value in settings}
    return {**fields, "task_type": "CAUSAL_LM"}


def fields_for(base: Any, settings: LoraSettings) -> dict[str, Any]:
    """The same for one model: names as PEFT takes them there, and what it cannot adapt."""
    wanted = adapted.targets(base, settings.target_modules)
    left = adapted.unfit(base) if isinstance(wanted, str) else []
    return {
        **lora_fields(settings),
        "target_modules": wanted,
        "exclude_modules": left or None,
        "fan_in_fan_out": adapted.are_transposed(base),
    }


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The same as PEFT's LoraConfig."""
    return LoraConfig(**lora_fields(settings))


def add_adapter(
    base: Any, settings: LoraSettings, seed: int, *, partitioned: bool = False
) -> PeftModel:
    """Wraps the base; the adapter's start depends on the seed alone.

    Args:
        base: From `load.load_base`.
        settings: The adapter's.
        seed: Of its start and of its dropout.
        partitioned: Weights are whole only inside their own module's forward (ZeRO-3).

    Raises:
        ModelError: PEFT finds no such modules, or the output head would be adapted.
    """
    torch.manual_seed(seed)
    adapted.refuse_unknown(base, settings)
    made = LoraConfig(**fields_for(base, settings))
    layers = adapted.layer_names(base)  # PEFT may leave a base half wrapped
    try:
        model = get_peft_model(base, made)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"LoRA does not fit this model: {first_line(error)}",
            where="lora.target_modules",
            hint=f"name layers in `lora.target_modules`; it has {layers}",
        ) from None
    if any(p.requires_grad for p in model.get_output_embeddings().parameters()):
        raise ModelError(
            "the output head would be adapted, which the loss does not train",
            where="lora.target_modules",
            hint="leave `lm_head` out; `all-linear` does",
        )
    to_float32(model)
    dropout.install(model, settings.dropout, seed)
    if not partitioned:
        fused_lora.install(model)
    return model


def to_float32(model: nn.Module) -> None:
    """Trained weights in float32, also where a library has made them smaller."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def count(model: nn.Module) -> Trainable:
    """How much of a model is trained."""
    # a weight that ZeRO-3 has divided is empty and knows its whole size
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return Trainable(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))
