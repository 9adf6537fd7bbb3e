"""A run's adapter → a GGUF LoRA file, which llama.cpp and Ollama put on the base's own GGUF.

    A (rank, in)  ──► blk.N.attn_q.weight.lora_a
    B (out, rank) ──► (llama: rows of q and k permuted) ──► blk.N.attn_q.weight.lora_b

The reader adds `alpha / rank * B A` to the product with the base's weight, see `adapter.lora.alpha`
in https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.cpp. Both matrices stay
float32. Proven by reading the file back: the update of every matrix against PEFT's own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import torch
from gguf import GGUFWriter
from transformers import AutoConfig

from lorawright.config.schema import Config
from lorawright.errors import ModelError
from lorawright.exporters import gguf, gguf_families, proof
from lorawright.exporters.proof import Parts
from lorawright.run.files import sync
from lorawright.run.folder import RunFolder
from lorawright.training import failures

RESULT = "export-gguf-lora.json"
HINT = "export the merged model: leave --adapter-only out"
MOST_ERROR = 1e-5  # of an update's largest value; float32 products in another order


@dataclass(frozen=True, slots=True)
class Factor:
    """One adapted matrix.

    Attributes:
        name: llama.cpp's name of the matrix.
        layer: PEFT's.
        alpha: Scale times rank.
    """

    name: str
    layer: Any
    alpha: float


def run(
    folder: RunFolder, config: Config, output: Path | None, *, overwrite: bool
) -> dict[str, Any]:
    """Writes and proves `NAME-lora.gguf`; the run folder is held meanwhile.

    Returns:
        `path`, `adapter`, `architecture`, `rank`, `alpha`, `num_bytes`, `num_tensors`,
        `max_error` and `seconds`.

    Raises:
        LorawrightError: See `proof.open_parts`; an architecture or a kind of adapter that this does
            not convert, a file that is taken, a full disk.
    """
    started = time.perf_counter()
    output = output or folder.path / "gguf"
    path = output / f"{folder.path.resolve().name}-lora.gguf"
    with failures.results_into(folder, "export"):
        gguf.refuse_taken(path, folder, overwrite=overwrite)
        gguf.refuse_taken(gguf.unfinished(path), folder, overwrite=True)
        parts = proof.open_parts(folder, config)
        settings = AutoConfig.from_pretrained(
            parts.files.base, trust_remote_code=parts.files.settings.trust_remote_code
        )
        factors = lay_out(parts, settings)
        proof.refuse_full_disk(output, sum(_num_bytes(factor.layer) for factor in factors))
        with failures.held_output(output, folder, "export"), failures.unwritable(output):
            output.mkdir(parents=True, exist_ok=True)
            max_error = _write_proven(factors, settings, path)
        found = {
            "path": str(path),
            "adapter": str(parts.files.adapter),
            "architecture": settings.model_type,
            "rank": _rank(factors[0].layer),
            "alpha": factors[0].alpha,
            "num_bytes": path.stat().st_size,
            "num_tensors": 2 * len(factors),
            "max_error": max_error,
            "seconds": time.perf_counter() - started,
        }
        failures.write_result(folder, RESULT, found)
    return found


def lay_out(parts: Parts, settings: Any) -> list[Factor]:
    """The adapted matrices by llama.cpp's names.

    Raises:
        ModelError: An architecture that this does not convert, or an adapter that is more than one
            scale and two factors for each matrix.
    """
    where = str(parts.files.adapter)
    family = gguf_families.find(settings, parts.files.settings.name)
    names = gguf_library.get_tensor_name_map(family.architecture, settings.num_hidden_layers)
    factors = []
    for source, layer in parts.weights.layers.items():
        name = names.get_name(source, try_suffixes=(".weight",))
        if source == parts.weights.embedding or name is None:
            raise ModelError(f"adapts {source}", where=where, hint=HINT)
        scale = float(layer.scaling[_only(layer.scaling)])
        factors.append(Factor(name, layer, scale * _rank(layer)))
    variants = any(layer.lora_variant for layer in parts.weights.layers.values())
    problem = (
        "is a DoRA adapter: its update is no product of two matrices"
        if variants
        else "holds trained biases"
        if parts.weights.replaced
        else "scales its matrices differently, a GGUF LoRA has one alpha"
        if len({factor.alpha for factor in factors}) > 1
        else None
    )
    if problem is not None:
        raise ModelError(problem, where=where, hint=HINT)
    return factors


def _only(names: Mapping[str, Any]) -> str:
    (name,) = names
    return name


def _pair(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B in float32."""
    name = _only(layer.scaling)
    return layer.lora_A[name].weight.detach().float(), layer.lora_B[name].weight.detach().float()


def _rank(layer: Any) -> int:
    return int(_pair(layer)[0].shape[0])


def _num_bytes(layer: Any) -> int:
    return 4 * sum(factor.numel() for factor in _pair(layer))


def _write_proven(factors: list[Factor], settings: Any, path: Path) -> float:
    """Writes the file beside its place, and moves it there once it is proven."""
    work = gguf.unfinished(path)
    gguf.note_written(work)
    try:
        _write(factors, settings, work)
        max_error = verify(factors, settings, work)
        gguf.note_written(path)
        sync(work)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
        gguf.strike_off(work)
    return max_error


def _write(factors: list[Factor], settings: Any, path: Path) -> None:
    architecture = gguf_families.FAMILIES[settings.model_type].architecture
    writer = GGUFWriter(path, gguf_library.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf_library.GGUFType.ADAPTER)
    writer.add_string(gguf_library.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf_library.Keys.Adapter.LORA_ALPHA, factors[0].alpha)
    for factor in factors:
        lora_a, lora_b = _pair(factor.layer)
        rows = gguf_families.permute_heads(factor.name, lora_b.numpy(), settings)
        writer.add_tensor(f"{factor.name}.lora_a", lora_a.numpy())
        writer.add_tensor(f"{factor.name}.lora_b", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def verify(factors: list[Factor], settings: Any, path: Path) -> float:
    """Reads the file back: the update of every matrix is the one that PEFT merges.

    Returns:
        The largest difference, as a share of the update's largest value.

    Raises:
        ModelError: It is larger than rounding explains.
    """
    reader = gguf_library.GGUFReader(path)
    alpha = reader.fields[gguf_library.Keys.Adapter.LORA_ALPHA].contents()
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    worst = 0.0
    for factor in factors:
        lora_a, lora_b = (tensors[f"{factor.name}.lora_{side}"] for side in "ab")
        update = alpha / lora_a.shape[0] * (lora_b @ lora_a)
        delta = factor.layer.get_delta_weight(_only(factor.layer.scaling)).detach().float()
        expected = gguf_families.permute_heads(factor.name, delta.numpy(), settings)
        size = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
        worst = max(worst, float(np.abs(update - expected).max()) / size)
    if not worst <= MOST_ERROR:
        raise ModelError(
            f"read back, its updates are {worst:.2g} from PEFT's",
            where=str(path),
            hint="is the disk sound? write it again",
        )
    return worst
