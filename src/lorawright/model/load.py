"""A base model's folder → the loaded base on its device, and Transformers' tokenizer.

The base is frozen: float32, 16 bits or quantized by bitsandbytes. `lora.py` adds what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

from lorawright.config.schema import Dtype, ModelSettings, Quantization
from lorawright.errors import ModelError
from lorawright.hardware import Device
from lorawright.plan import architecture
from lorawright.plan.attention import Attention

TORCH_DTYPE = {
    Dtype.FLOAT32: torch.float32,
    Dtype.BFLOAT16: torch.bfloat16,
    Dtype.FLOAT16: torch.float16,
}


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
        settings: Which model, in which dtype; `dtype` is not `auto`.
        folder: Where it lies.
        device: Where it goes.
        training: For training: no cache, no dropout or jitter of the base's own.
        implementation: Its attention, see `plan.attention`.

    Raises:
        ModelError: It cannot be loaded.
    """
    known = architecture.read_config(folder, trust_remote_code=settings.trust_remote_code)
    if training:
        _disable_noise(known)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=known,
            dtype=TORCH_DTYPE[settings.dtype],
            quantization_config=_quantization(settings),
            device_map=_device_map(settings, device),
            attn_implementation=None if implementation is Attention.OWN else implementation,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{known.model_type} cannot be loaded: {first_line(error)}",
            where=settings.name,
            hint="`lorawright doctor` shows versions; a model folder needs config.json and "
            "*.safetensors",
        ) from error
    model.config.use_cache = not training
    return model if settings.quantization is not Quantization.NONE else model.to(device.value)


def _device_map(settings: ModelSettings, device: Device) -> dict[str, int] | None:
    """Sends a base to its GPU tensor by tensor, so that no process holds a copy in host memory.

    A quantized base goes there by itself. ZeRO-3 refuses a map, and FSDP gives ranks other than the
    first nothing to load.
    """
    divided = is_deepspeed_zero3_enabled() or is_fsdp_enabled()
    quantized = settings.quantization is not Quantization.NONE
    if device is not Device.CUDA or quantized or divided:
        return None
    return {"": torch.cuda.current_device()}


def _disable_noise(config: Any) -> None:
    """Turns the base's own dropouts off: they would differ from pass to pass and on a resume."""
    text = config.get_text_config()
    for key in architecture.noise(config):
        setattr(text, key, 0.0)


def quantization_fields(settings: ModelSettings) -> dict[str, Any] | None:
    """`model.quantization` as fields of Transformers' BitsAndBytesConfig; None: there is none."""
    if settings.quantization is Quantization.NONE:
        return None
    if settings.quantization is Quantization.INT8:
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": str(settings.dtype),
    }


def _quantization(settings: ModelSettings) -> BitsAndBytesConfig | None:
    fields = quantization_fields(settings)
    return None if fields is None else BitsAndBytesConfig(**fields)


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


def first_line(error: Exception) -> str:
    """What a library says of an error, short enough for a message."""
    return str(error).strip().split("\n")[0][:300]
