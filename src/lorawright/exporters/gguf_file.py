"""Merged weights, config and tokenizer → one GGUF file, written tensor by tensor.

    float32 sum ──► (llama: q and k permuted) ──► F32 | F16 | BF16 | Q8_0 | … ──► file

Names come from the `gguf` package's own map. What llama.cpp's converter does beyond renaming is
done here for the architectures listed below, and only for these:
https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType, GGUFWriter

from lorawright.errors import ModelError
from lorawright.exporters.merged_weights import MergedWeights
from lorawright.types import GgufType

CONVERTER_HINT = (
    "merge it, and convert the merged folder with llama.cpp's own convert_hf_to_gguf.py"
)
ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "llama": gguf.MODEL_ARCH.LLAMA,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the file: its name there and in the base, its type, its shape."""

    name: str
    source: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def byte_shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = gguf.quant_shape_to_byte_shape(self.shape, self.type)
        return shape

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.byte_shape))


@dataclass(frozen=True, slots=True)
class Layout:
    """What the file will hold.

    Attributes:
        architecture: llama.cpp's name of it.
        type: The type of its matrices.
        entries: Its tensors, in order.
        config: The model's.
    """

    architecture: gguf.MODEL_ARCH
    type: GgufType
    entries: tuple[Entry, ...]
    config: Any

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)


def lay_out(weights: MergedWeights, config: Any, wanted: GgufType, where: str) -> Layout:
    """Names and types of all tensors.

    Raises:
        ModelError: An architecture or a setting that this does not convert.
    """
    architecture = find_architecture(config, where)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    entries: list[Entry] = []
    for source in weights.names:
        if source == "lm_head.weight" and config.tie_word_embeddings and not weights.untied:
            continue  # a second copy of the embedding
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"{source} has no name in the GGUF of {config.model_type}",
                where=where,
                hint=CONVERTER_HINT,
            )
        shape = weights.shape(source)
        entries.append(Entry(name, source, _type(name, shape, wanted), shape))
    return Layout(architecture, wanted, tuple(entries), config)


def find_architecture(config: Any, where: str) -> gguf.MODEL_ARCH:
    """llama.cpp's name of a model's architecture.

    Raises:
        ModelError: This does not convert it.
    """
    found = ARCHITECTURES.get(config.model_type)
    rope = config.rope_parameters or {}
    windowed = getattr(config, "use_sliding_window", False)
    problem = (
        f"is a {config.model_type} model; known are {', '.join(ARCHITECTURES)}"
        if found is None
        else f"stretches its positions by {rope['rope_type']}"
        if rope.get("rope_type", "default") != "default"
        else "attends through sliding windows"
        if windowed
        else None
    )
    if problem is not None or found is None:
        raise ModelError(str(problem), where=where, hint=CONVERTER_HINT)
    return found


def _type(name: str, shape: tuple[int, ...], wanted: GgufType) -> GGMLQuantizationType:
    """Norms and biases stay float32, as llama.cpp has them; below 8 bits the embedding has 8."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[wanted.name]
    if wanted in (GgufType.F32, GgufType.F16, GgufType.BF16):
        return kind
    if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        return GGMLQuantizationType.F16  # a row that no whole number of blocks fills
    if name in ("token_embd.weight", "output.weight"):
        return GGMLQuantizationType.Q8_0
    return kind


def write(
    layout: Layout,
    weights: MergedWeights,
    add_tokenizer: Callable[[GGUFWriter], None],
    path: Path,
    name: str,
    progress: Callable[[int], None],
) -> dict[str, str]:
    """Writes the file.

    Args:
        layout: From `lay_out`.
        weights: Where the tensors come from.
        add_tokenizer: Adds the tokenizer's part of the metadata.
        path: The file.
        name: What the model calls itself.
        progress: Told of each tensor.

    Returns:
        The hash of each tensor's bytes, for `verify`.

    Raises:
        ModelError: A value does not fit its type.
    """
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[layout.architecture])
    _add_config(writer, layout, name)
    add_tokenizer(writer)
    for entry in layout.entries:
        writer.add_tensor_info(
            entry.name,
            entry.byte_shape,
            np.dtype(np.uint8),
            entry.num_bytes,
            raw_dtype=entry.type,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    digests: dict[str, str] = {}
    try:
        for entry in layout.entries:
            data = _convert(entry, weights.tensor(entry.source), layout.config)
            writer.write_tensor_data(data)
            digests[entry.name] = hashlib.sha256(data.tobytes()).hexdigest()
            progress(1)
    finally:
        writer.close()
    return digests


def _convert(entry: Entry, tensor: torch.Tensor, config: Any) -> npt.NDArray[np.uint8]:
    values = permute_heads(entry.name, tensor.float().numpy(), config)
    with np.errstate(over="ignore"):
        data = gguf.quantize(np.ascontiguousarray(values), entry.type)
    if not np.isfinite(
        gguf.dequantize(data.view(np.uint8).reshape(entry.byte_shape), entry.type)
    ).all():
        raise ModelError(
            f"is not finite in {entry.type.name}", where=entry.name, hint="choose bf16 or f32"
        )
    found: npt.NDArray[np.uint8] = data.view(np.uint8).reshape(entry.byte_shape)
    return found


def permute_heads(
    name: str, values: npt.NDArray[np.float32], config: Any
) -> npt.NDArray[np.float32]:
    """Rows of Llama's queries and keys in the order that llama.cpp wants; others as they are."""
    if config.model_type == "llama" and ".attn_q." in name:
        return _permute(values, config.num_attention_heads)
    if config.model_type == "llama" and ".attn_k." in name:
        return _permute(values, config.num_key_value_heads)
    return values


def _permute(values: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """From halves to pairs: llama.cpp turns neighbours, Transformers the two halves of a head."""
    rest = values.shape[1:]
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add_config(writer: GGUFWriter, layout: Layout, name: str) -> None:
    config = layout.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_file_type(_file_type(layout.type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(head_dim)
    if config.model_type == "qwen3":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def _file_type(kind: GgufType) -> int:
    if kind is GgufType.F32:
        return int(gguf.LlamaFileType.ALL_F32)
    return int(gguf.LlamaFileType[f"MOSTLY_{kind.name}"])


def verify(
    path: Path, layout: Layout, digests: dict[str, str], metadata: dict[str, Any]
) -> dict[str, int]:
    """Reads the file back with the `gguf` package: every tensor's bytes, the metadata's values.

    Returns:
        How many tensors have which type.

    Raises:
        ModelError: It does not hold what was written.
    """
    reader = gguf.GGUFReader(path)
    problem = next(_differences(reader, layout, digests, metadata), None)
    if problem is not None:
        raise ModelError(
            f"read back, {problem}", where=str(path), hint="is the disk sound? write it again"
        )
    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    return types


def _differences(
    reader: gguf.GGUFReader, layout: Layout, digests: dict[str, str], metadata: dict[str, Any]
) -> Iterator[str]:
    names = [tensor.name for tensor in reader.tensors]
    if names != [entry.name for entry in layout.entries]:
        yield "the tensors are other ones"
        return
    for tensor, entry in zip(reader.tensors, layout.entries, strict=True):
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if (tensor.tensor_type, shape) != (entry.type, entry.shape):
            yield f"{entry.name} has another type or shape"
        if (
            hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest()
            != digests[entry.name]
        ):
            yield f"{entry.name} has other values"
    for key, value in metadata.items():
        field = reader.get_field(key)
        if field is None or field.contents() != value:
            yield f"{key} has another value"
