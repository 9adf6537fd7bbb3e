"""The base model and its adapter.

    base (bfloat16 or quantized, frozen)  +  LoRA matrices (float32, trained under autocast)

The adapter is float32 whatever the base is: at learning rate 2e-5 an update is about 1e-3 of a
weight, below bfloat16's resolution of 4e-3, so a bfloat16 adapter does not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lorawright.config.schema import Dtype, LoraSettings, ModelSettings, Quantization
from lorawright.errors import ModelError
from lorawright.hardware import Device
from lorawright.model import dropout, fused_lora, targets
from lorawright.plan import architecture
from lorawright.plan.attention import Attention

TORCH_DTYPE = {
    Dtype.FLOAT32: torch.float32,
    Dtype.BFLOAT16: torch.bfloat16,
    Dtype.FLOAT16: torch.float16,
}


@dataclass(frozen=True, slots=True)
class Trainable:
    """How much of the model is trained."""

    num_trainable: int
    num_total: int


def load_base(
    settings: ModelSettings,
    folder: Path,
    device: Device,
    *,
    training: bool,
    implementation: Attention = Attention.OWN,
) -> Any:
    """The base model, on its device.

    Args:
        settings: Which model, in which numbers; `dtype` is resolved.
        folder: Where it lies.
        device: Where it goes.
        training: For training: no cache, no dropout or jitter of the base's own.
        implementation: Its attention, see `plan.attention`.

    Raises:
        ModelError: It cannot be loaded.
    """
    known = architecture.read_config(folder, trust_remote_code=settings.trust_remote_code)
    if training:
        _silence(known)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=known,
            dtype=TORCH_DTYPE[settings.dtype],
            quantization_config=_quantization(settings),
            attn_implementation=None if implementation is Attention.OWN else implementation,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{known.model_type} cannot be loaded: {_short(error)}",
            where=settings.name,
            hint="`lorawright doctor` shows versions; a model folder needs config.json and "
            "*.safetensors",
        ) from error
    model.config.use_cache = not training
    return model if settings.quantization is not Quantization.NONE else model.to(device.value)


def _silence(config: Any) -> None:
    """Turns the base's own dropouts off: they would differ from pass to pass and on a resume."""
    text = config.get_text_config()
    for key in architecture.noise(config):
        setattr(text, key, 0.0)


def _quantization(settings: ModelSettings) -> BitsAndBytesConfig | None:
    if settings.quantization is Quantization.NONE:
        return None
    if settings.quantization is Quantization.INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=TORCH_DTYPE[settings.dtype],
    )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Transformers' tokenizer: what is saved with the adapter."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def refuse_other_ids(tokenizer: Any, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    """Transformers' tokenizer must read texts as the ids that are trained on.

    It rebuilds some tokenizers from their vocabulary (transformers 5) instead of reading
    tokenizer.json; what is saved with the adapter, and used by servers, is this one.

    Raises:
        ModelError: A text has other ids.
    """
    for text, expected in zip(texts, ids, strict=True):
        got = tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(got) != list(expected):
            raise ModelError(
                f"Transformers reads {text[:40]!r} as other ids than tokenizer.json",
                where=str(tokenizer.name_or_path),
                hint="save the tokenizer anew: "
                "`AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
            )


def lora_config(settings: LoraSettings) -> LoraConfig:
    """Our section in PEFT's terms."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        target_modules=settings.target_modules,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        task_type="CAUSAL_LM",
    )


def add_adapter(
    base: Any, settings: LoraSettings, seed: int, *, partitioned: bool = False
) -> PeftModel:
    """Wraps the base; the adapter's start depends on the seed alone.

    Args:
        base: From `load_base`.
        settings: The adapter's.
        seed: Of its start and of its dropout.
        partitioned: Weights are whole only inside their own module's forward (ZeRO-3).

    Raises:
        ModelError: PEFT finds no such modules, or the output head would be adapted.
    """
    torch.manual_seed(seed)
    targets.refuse_unknown(base, settings.target_modules)
    made = lora_config(settings)
    listed = targets.listed(base)  # PEFT may leave a base half wrapped
    made.exclude_modules = targets.routers(base) or None
    made.fan_in_fan_out = targets.are_transposed(base)
    try:
        model = get_peft_model(base, made)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"LoRA does not fit this model: {_short(error)}",
            where="lora.target_modules",
            hint=f"name layers in `lora.target_modules`; it has {listed}",
        ) from None
    if any(p.requires_grad for p in model.get_output_embeddings().parameters()):
        raise ModelError(
            "the output head would be adapted, which the loss does not train",
            where="lora.target_modules",
            hint="leave `lm_head` out; `all-linear` does",
        )
    to_float32(model)
    dropout.plan(model, settings.dropout, seed)
    if not partitioned:
        fused_lora.install(model)
    return model


def to_float32(model: nn.Module) -> None:
    """Trained weights in float32, also where a library has made them smaller."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def evaluation_mode(model: nn.Module) -> None:
    """`eval()`, and training can go on after it.

    On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks a 4-bit weight when a forward pass finds its
    layer in evaluation mode, and cannot compute gradients with it afterwards.
    """
    model.eval()
    if find_spec("bitsandbytes") is None:
        return
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.training = True  # the layer has nothing else that depends on it


def count(model: nn.Module) -> Trainable:
    # a weight that ZeRO-3 has divided is empty and knows its whole size
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return Trainable(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))


def _short(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
