"""A base and `lora` settings → a PEFT model whose LoRA matrices alone are trained, in float32.

    base (float32, 16 bits or quantized, frozen)  +  LoRA matrices (float32, under autocast)

The adapter is float32 whatever the base is: at learning rate 2e-5 an update is about 1e-3 of a
weight, below bfloat16's resolution of 4e-3, so a bfloat16 adapter does not move.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorawright.config.schema import LoraSettings
from lorawright.errors import ModelError
from lorawright.model import dropout, fused_lora
from lorawright.model.load import first_line

PEFT_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
ALL_LINEAR = "all-linear"
MOST_LISTED = 12  # names in a hint


@dataclass(frozen=True, slots=True)
class Trainable:
    """Numbers of parameters: of those that are trained, and of all."""

    num_trainable: int
    num_total: int


def lora_fields(settings: LoraSettings) -> dict[str, Any]:
    """The `lora` section of a config as fields of PEFT's LoraConfig."""
    fields = {PEFT_NAMES.get(name, name): value for name, value in settings}
    return {**fields, "task_type": "CAUSAL_LM"}


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
    refuse_unknown(base, settings.target_modules)
    made = lora_config(settings)
    layers = layer_names(base)  # PEFT may leave a base half wrapped
    made.exclude_modules = routers(base) or None
    made.fan_in_fan_out = are_transposed(base)
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


def refuse_unknown(base: nn.Module, wanted: str | Sequence[str]) -> None:
    """A name or pattern of `lora.target_modules` that no layer has is a mistake.

    PEFT drops such a name as long as another one is found (peft 0.21).

    Raises:
        ModelError: With the nearest name.
    """
    if isinstance(wanted, str):
        if wanted != ALL_LINEAR and not any(re.fullmatch(wanted, name) for name in _names(base)):
            raise ModelError(
                f"no layer's name is `{wanted}` as a whole, read as a regular expression",
                where="lora.target_modules",
                hint="several names are a list, `[q_proj, v_proj]`; this model has "
                f"{layer_names(base)}",
            )
        return
    names = list(_names(base))
    for one in wanted:
        if any(name == one or name.endswith(f".{one}") for name in names):
            continue
        near = get_close_matches(one, _last_parts(base), n=1, cutoff=0.5)
        guess = f"; did you mean `{near[0]}`?" if near else ""
        raise ModelError(
            f"no layer is called `{one}`{guess}",
            where="lora.target_modules",
            hint=f"this model has {layer_names(base)}",
        )


def routers(base: nn.Module) -> list[str]:
    """Linear layers that answer with more than a tensor, which no adapter can be added to."""
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and type(module).__name__.endswith("Router")
    ]


def are_transposed(base: nn.Module) -> bool:
    """Whether weights lie as (inputs, outputs), as in GPT-2; PEFT wants to be told."""
    return any(isinstance(module, Conv1D) for module in base.modules())


def layer_names(base: nn.Module) -> str:
    """Names of the base's linear layers, for people."""
    names = _last_parts(base)
    return ", ".join(names[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")


def _names(base: nn.Module) -> Iterator[str]:
    return (name for name, _ in base.named_modules() if name)


def _last_parts(base: Any) -> list[str]:
    """`q_proj`, `k_proj`… of the linear layers but the head."""
    output = base.get_output_embeddings()
    found = (
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output
    )
    return list(dict.fromkeys(found))
