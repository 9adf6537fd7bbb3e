"""What llama.cpp wants of each architecture: names, settings, changed and additional tensors.

Everything here is what its loader reads or assumes; what it cannot be told is refused:
https://github.com/ggml-org/llama.cpp/tree/master/src/models
Each family was loaded by llama.cpp and answered as Transformers does, see docs/log.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFWriter
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lorawright.errors import ModelError

Values = npt.NDArray[np.float32]

CONVERTER_HINT = (
    "merge it, and convert the merged folder with llama.cpp's own convert_hf_to_gguf.py"
)
LOCAL_BASE = 10_000.0  # of Gemma 3's sliding layers; its loader asks the file for no other
ROPE = "default"


class Family(NamedTuple):
    """What sets an architecture apart.

    Attributes:
        architecture: llama.cpp's name of it.
        activation: What its loader builds, by Transformers' name.
        stretched: The kinds of stretched positions that it can be told of.
        pairs: It turns neighbours where Transformers turns the halves of a head: q and k are
            permuted.
        norm_offset: What Transformers adds to the weights of norms, and llama.cpp does not.
        period: Every so-manieth layer sees everything, the others a window; 0 without windows.
        by_transformers: Transformers reads such a file back.
    """

    architecture: gguf.MODEL_ARCH
    activation: str = "silu"
    stretched: tuple[str, ...] = ()
    pairs: bool = False
    norm_offset: float = 0.0
    period: int = 0
    by_transformers: bool = False


GELU = "gelu_pytorch_tanh"
FAMILIES = {
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, by_transformers=True),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3, by_transformers=True),
    "llama": Family(gguf.MODEL_ARCH.LLAMA, "silu", ("llama3",), pairs=True, by_transformers=True),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, pairs=True),
    "gemma2": Family(gguf.MODEL_ARCH.GEMMA2, GELU, norm_offset=1.0, period=2),
    "gemma3_text": Family(gguf.MODEL_ARCH.GEMMA3, GELU, ("linear",), norm_offset=1.0, period=6),
    "phi3": Family(gguf.MODEL_ARCH.PHI3, "silu", ("longrope",)),
    "glm4": Family(gguf.MODEL_ARCH.GLM4),
}
LARGEST_GEMMA = {"gemma2": 46, "gemma3_text": 62}  # layers of the 27B, which scales otherwise


def find(config: Any, where: str) -> Family:
    """The family of a model.

    Raises:
        ModelError: This does not convert it.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(
            f"is a {config.model_type} model; known are {', '.join(FAMILIES)}",
            where=where,
            hint=CONVERTER_HINT,
        )
    problems = [*_problems(config, family), *_gemma_problems(config, family)]
    if problems:
        raise ModelError(problems[0], where=where, hint=CONVERTER_HINT)
    return family


def _problems(config: Any, family: Family) -> Iterator[str]:
    """What llama.cpp would compute otherwise."""
    kind = rope(config).get("rope_type", ROPE)
    if kind not in (ROPE, *family.stretched):
        yield f"stretches its positions by {kind}"
    if not family.period and _windowed(config):
        yield "attends through sliding windows"
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != family.activation:
        yield f"activates by {activation}"


def _windowed(config: Any) -> bool:
    """Whether a token does not see all that came before it, in the longest context."""
    if hasattr(config, "use_sliding_window"):  # Qwen's own switch, off in what is published
        return bool(config.use_sliding_window)
    window = getattr(config, "sliding_window", None)
    return window is not None and window < config.max_position_embeddings


def _gemma_problems(config: Any, family: Family) -> Iterator[str]:
    """What llama.cpp's loaders of Gemma hold as constants."""
    period = family.period
    if not period:
        return
    layers = [
        "sliding_attention" if (number + 1) % period else "full_attention"
        for number in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) != layers:
        yield f"has windows in other layers than all but every {period}th"
    largest = config.num_hidden_layers == LARGEST_GEMMA[config.model_type]
    scale = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    if config.query_pre_attn_scalar != scale:
        yield f"scales its attention by {config.query_pre_attn_scalar}, not by {scale}"
    capped = config.model_type == "gemma2"
    caps = (config.attn_logit_softcapping, config.final_logit_softcapping)
    if any((cap is not None) != capped for cap in caps):
        yield f"caps its logits at {caps[0]} and {caps[1]}"
    if config.model_type == "gemma3_text":
        local = config.rope_parameters["sliding_attention"]
        if local.get("rope_type", ROPE) != ROPE or local["rope_theta"] != LOCAL_BASE:
            yield f"turns positions in its windows by {local}"
        if getattr(config, "use_bidirectional_attention", None):
            yield "looks ahead"


def rope(config: Any) -> dict[str, Any]:
    """How positions are turned; for Gemma 3 in the layers that see everything."""
    settings: dict[str, Any] = config.rope_parameters or {}
    found: dict[str, Any] = settings.get("full_attention", settings)
    return found


def head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def add_settings(writer: GGUFWriter, config: Any) -> None:
    """The metadata that the family's loader reads."""
    family = FAMILIES[config.model_type]
    size = head_dim(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope(config)["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if family.pairs or config.model_type in ("phi3", "glm4"):
        writer.add_rope_dimension_count(int(size * rope(config).get("partial_rotary_factor", 1.0)))
    if size * config.num_attention_heads != config.hidden_size or config.model_type == "qwen3":
        writer.add_key_length(size)
        writer.add_value_length(size)
    _add_positions(writer, config)
    if family.period:
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "phi3":
        writer.add_sliding_window(0)


def _add_positions(writer: GGUFWriter, config: Any) -> None:
    """How positions are stretched; what is a tensor is in `additional`."""
    settings = rope(config)
    match settings.get("rope_type", ROPE):
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(settings["factor"])
        case "longrope":
            _, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](config, None)
            writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
            writer.add_rope_scaling_attn_factors(attention_factor)


def additional(config: Any) -> dict[str, Values]:
    """Tensors that the base holds as settings: by how much each pair of a head turns slower."""
    settings = rope(config)
    match settings.get("rope_type", ROPE):
        case "llama3":
            stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
            size = head_dim(config)
            plain = settings["rope_theta"] ** -(torch.arange(0, size, 2).float() / size)
            return {"rope_freqs.weight": (plain / stretched).numpy()}
        case "longrope":
            return {
                f"rope_factors_{kind}.weight": np.array(settings[f"{kind}_factor"], np.float32)
                for kind in ("long", "short")
            }
    return {}


def to_file(name: str, values: Values, config: Any) -> Values:
    """A tensor as llama.cpp wants it; most stay as they are."""
    family = FAMILIES[config.model_type]
    if family.norm_offset and name.endswith("norm.weight"):
        return values + np.float32(family.norm_offset)
    return permute_heads(name, values, config)


def from_file(name: str, values: Values, config: Any) -> Values:
    """The other way round."""
    family = FAMILIES[config.model_type]
    if family.norm_offset and name.endswith("norm.weight"):
        return values - np.float32(family.norm_offset)
    return permute_heads(name, values, config, back=True)


def permute_heads(name: str, values: Values, config: Any, *, back: bool = False) -> Values:
    """Rows of Llama's queries and keys in the order that llama.cpp wants; others as they are."""
    if FAMILIES[config.model_type].pairs and ".attn_q." in name:
        return _permute(values, config.num_attention_heads, back)
    if FAMILIES[config.model_type].pairs and ".attn_k." in name:
        return _permute(values, config.num_key_value_heads, back)
    return values


def _permute(values: Values, num_heads: int, back: bool) -> Values:
    """From halves to pairs: llama.cpp turns neighbours, Transformers the two halves of a head."""
    half = values.shape[0] // num_heads // 2
    sides = (half, 2) if back else (2, half)
    heads = values.reshape(num_heads, *sides, *values.shape[1:])
    return heads.swapaxes(1, 2).reshape(values.shape)
