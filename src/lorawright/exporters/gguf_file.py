"""Merged weights, config and tokenizer → one GGUF file, written tensor by tensor.

    float32 sum ──► (by family: permuted, norms plus 1) ──► F32 | F16 | BF16 | Q8_0 | … ──► file

Names come from the `gguf` package's own map, what differs by architecture from `gguf_families`.
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
from transformers import AutoModelForCausalLM

from lorawright.errors import ModelError
from lorawright.exporters import gguf_families
from lorawright.exporters.gguf_families import CONVERTER_HINT, Family, Values
from lorawright.exporters.merged_weights import MergedWeights
from lorawright.types import GgufType


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the file: its name there and in the base, its type, its shape.

    The base has no tensor for what `gguf_families.additional` makes of its settings.
    """

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
        family: What llama.cpp wants of the architecture.
        type: The type of its matrices.
        entries: Its tensors, in order.
        config: The model's.
    """

    family: Family
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
    family = gguf_families.find(config, where)
    names = gguf.get_tensor_name_map(family.architecture, config.num_hidden_layers)
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
    entries += [
        Entry(name, "", GGMLQuantizationType.F32, values.shape)
        for name, values in gguf_families.additional(config).items()
    ]
    return Layout(family, wanted, tuple(entries), config)


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
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[layout.family.architecture])
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
    made = gguf_families.additional(layout.config)
    try:
        for entry in layout.entries:
            values = (
                weights.tensor(entry.source).float().numpy() if entry.source else made[entry.name]
            )
            data = _convert(entry, values, layout.config)
            writer.write_tensor_data(data)
            digests[entry.name] = hashlib.sha256(data.tobytes()).hexdigest()
            progress(1)
    finally:
        writer.close()
    return digests


def _convert(entry: Entry, values: Values, config: Any) -> npt.NDArray[np.uint8]:
    values = gguf_families.to_file(entry.name, values, config)
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


def _add_config(writer: GGUFWriter, layout: Layout, name: str) -> None:
    writer.add_name(name)
    writer.add_file_type(_file_type(layout.type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    gguf_families.add_settings(writer, layout.config)


def _file_type(kind: GgufType) -> int:
    if kind is GgufType.F32:
        return int(gguf.LlamaFileType.ALL_F32)
    return int(gguf.LlamaFileType[f"MOSTLY_{kind.name}"])


def verify(
    path: Path,
    layout: Layout,
    digests: dict[str, str],
    metadata: dict[str, Any],
    reader: gguf.GGUFReader | None = None,
) -> dict[str, int]:
    """Reads the file back with the `gguf` package: every tensor's bytes, the metadata's values.

    Args:
        path: The file.
        layout: What it should hold.
        digests: From `write`.
        metadata: Keys and values that it should hold, too.
        reader: Of the file, if there is one: 262,144 tokens take it ten seconds and more.

    Returns:
        How many tensors have which type.

    Raises:
        ModelError: It does not hold what was written.
    """
    reader = reader or gguf.GGUFReader(path)
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


def read_model(
    path: Path, layout: Layout, dtype: torch.dtype, reader: gguf.GGUFReader | None = None
) -> Any:
    """The model that a file holds.

    Through Transformers' own reader where it knows the family; else from the dequantized tensors,
    by the same names back, and the base's settings.
    """
    reader = reader or gguf.GGUFReader(path)
    if _read_by_transformers(layout, reader.fields["general.name"].contents()):
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    state = {
        entry.source: torch.from_numpy(_dequantize(tensors[entry.name], entry, layout.config))
        for entry in layout.entries
        if entry.source
    }
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(layout.config))
    return kind.from_pretrained(None, config=layout.config, state_dict=state, dtype=dtype)


def _read_by_transformers(layout: Layout, name: str) -> bool:
    """It takes a Llama model called `mistral` for another, and Qwen3's heads for 128 wide."""
    config = layout.config
    return (
        layout.family.by_transformers
        and all(entry.source for entry in layout.entries)
        and "mistral" not in name.lower()
        and (config.model_type != "qwen3" or config.head_dim == 128)
    )


def _dequantize(tensor: Any, entry: Entry, config: Any) -> Values:
    values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(entry.shape)
    return np.array(gguf_families.from_file(entry.name, values, config), np.float32)
