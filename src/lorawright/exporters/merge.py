"""A run → one model from its base and adapter, for programs that know no adapters; proven.

    figures = merge.run(RunFolder(path), config, Options())

plan    which tensor changes, by PEFT's own rules         nothing is read but names and sizes
check   the base is the run's, all is finite, the disk has room
apply   shard by shard, sums in float32, saved in the base's dtype, into `merged.tmp`
prove   logits of merged against base + adapter on evaluation chats; then it becomes `merged`
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lorawright import masks
from lorawright.config.schema import Config, Quantization
from lorawright.errors import ModelError, RunFolderError
from lorawright.evaluation import chats
from lorawright.exporters import proof
from lorawright.exporters.merged_weights import MergedWeights
from lorawright.exporters.proof import Parts
from lorawright.model import divergence
from lorawright.run import outputs, owned
from lorawright.run.folder import RunFolder
from lorawright.run.owned import Kind, Marker
from lorawright.training import failures

RESULT = "merge.json"
SHARD_BYTES = 4 * 1024**3
COPIED = (".json", ".jinja", ".txt", ".model", ".py")


@dataclass(frozen=True, slots=True)
class Options:
    """Where to, and how it is proven.

    Attributes:
        output: The new folder; `merged` in the run folder by default.
        data: Other chats for the proof than the run's evaluation set.
        max_mean_kl: The bound; by default what rounding to the base's dtype explains.
        overwrite: Replace the folder that is there.
        shard_bytes: Most bytes of a file; so much is held in memory.
    """

    output: Path | None = None
    data: str | None = None
    max_mean_kl: float | None = None
    overwrite: bool = False
    shard_bytes: int = SHARD_BYTES


def run(
    folder: RunFolder,
    config: Config,
    options: Options | None = None,
    progress: Callable[[str, int, int], None] = lambda what, num_done, num_all: None,
) -> dict[str, Any]:
    """Merges a run's adapter into its base and writes `merge.json`.

    Args:
        folder: The run.
        config: Its config.
        options: Where to, and how it is proven.
        progress: Told of tensors and proofs.

    Returns:
        What was written.

    Raises:
        LorawrightError: See `proof.open_parts`; also a folder that is taken, a full disk, or a
            merged model that is further from base + adapter than the bound.
    """
    with failures.results_into(folder, "merge"):
        return _run(folder, config, options or Options(), progress)


def _run(
    folder: RunFolder, config: Config, options: Options, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    started = time.perf_counter()
    target = options.output or folder.path / "merged"
    owned.refuse_places(target, "--output", kept_places(folder, config))
    with failures.unwritable(target):
        owned.put_back(target)
    refuse_taken(target, folder, overwrite=options.overwrite)
    parts = proof.open_parts(folder, config)
    rows = chats.proof_rows(config, options.data)
    proof.refuse_full_disk(target, sum(map(parts.weights.num_bytes, parts.weights.names)))
    bound = _bound(parts.weights) if options.max_mean_kl is None else options.max_mean_kl
    with failures.held_output(target, folder, "merge"), failures.unwritable(target):
        replaced = refuse_taken(target, folder, overwrite=options.overwrite)
        with written_aside(target, replaced) as work:
            shards = write(parts, work, options.shard_bytes, progress)
            found = _prove(parts, work, rows, bound, progress)
    result = {
        "path": str(target),
        "base": parts.files.settings.name,
        "adapter": str(parts.files.adapter),
        "dtype": _name(_main_dtype(parts.weights)),
        "num_merged": parts.weights.num_changed,
        "num_tensors": len(parts.weights.names),
        "num_bytes": sum((target / shard).stat().st_size for shard in shards),
        "shards": shards,
        **found,
        "max_mean_kl": bound,
        "seconds": time.perf_counter() - started,
    }
    failures.write_result(folder, RESULT, result)
    return result


@contextmanager
def written_aside(target: Path, replaced: Marker | None) -> Iterator[Path]:
    """A folder beside the target that becomes it when the block ends well, and else is gone.

    Args:
        target: The merged model's folder.
        replaced: Of the one that is there.
    """
    missing = [path for path in target.absolute().parents if not path.exists()]
    try:
        work = owned.begin_work(target, Marker(Kind.MODEL))
        try:
            yield work
            names = tuple(name for name in owned.files_in(work) if name != owned.MARKER)
            owned.finish_work(work, target, Marker(Kind.MODEL, names), replaced)
        finally:
            owned.drop_work(work)
    finally:
        owned.remove_empty(missing)


def kept_places(folder: RunFolder, config: Config) -> list[tuple[str, Path]]:
    """What a merged or exported folder must neither be nor hold."""
    return [
        *outputs.kept_places(config),
        ("the run", folder.path),
        ("the adapter", folder.adapter),
        ("the checkpoints", folder.checkpoints),
    ]


def refuse_taken(target: Path, folder: RunFolder, *, overwrite: bool) -> Marker | None:
    """Raises RunFolderError if something would be lost; only a model of ours gives way.

    Returns:
        What of the folder there is ours.
    """
    if os.path.lexists(target) and not overwrite:
        raise RunFolderError(
            "is there already", where=str(target), hint="replace it with --overwrite"
        )
    if not os.path.lexists(target):
        return None
    found = owned.read(target) or _earlier(target, folder)
    empty = target.is_dir() and not any(target.iterdir())
    if target.is_symlink() or not (empty or (found is not None and found.kind is Kind.MODEL)):
        raise RunFolderError(
            "holds other things than a model that lorawright merged",
            where=str(target),
            hint="choose another --output",
        )
    return found or Marker(Kind.MODEL)


def _earlier(target: Path, folder: RunFolder) -> Marker | None:
    """What a version without markers wrote there, by the run's own `merge.json`."""
    noted = folder.read_json(RESULT)
    path = (noted or {}).get("path")
    if not isinstance(path, str) or os.path.realpath(path) != os.path.realpath(target):
        return None
    names = tuple(name for name in owned.files_in(target) if owned.MODEL_FILE.fullmatch(name))
    return Marker(Kind.MODEL, names)


def write(
    parts: Parts, work: Path, shard_bytes: int, progress: Callable[[str, int, int], None]
) -> list[str]:
    """The merged folder's files; returns the names of the shards."""
    weights = parts.weights
    groups = list(_groups(weights, shard_bytes))
    names = [
        "model.safetensors" if len(groups) == 1 else f"model-{n:05}-of-{len(groups):05}.safetensors"
        for n in range(1, len(groups) + 1)
    ]
    for group, shard in zip(groups, names, strict=True):
        tensors: dict[str, torch.Tensor] = {}
        for name in group:
            tensors[name] = _rounded(weights.tensor(name), weights.dtype(name), name)
            progress("merge", 1, len(weights.names))
        save_file(tensors, work / shard, metadata={"format": "pt"})
    if len(groups) > 1:
        index = {
            "metadata": {"total_size": sum(map(weights.num_bytes, weights.names))},
            "weight_map": {n: shard for g, shard in zip(groups, names, strict=True) for n in g},
        }
        (work / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    copy_rest(parts.files.base, work)
    marks = masks.learn(masks.load(parts.files.base, parts.files.settings.name))
    if marks.is_new_stop:
        masks.add_stop(parts.files.base, work, marks.end_id)
    if weights.untied is not None:
        path = work / "config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**settings, "tie_word_embeddings": False}, indent=2))
    return names


def _groups(weights: MergedWeights, shard_bytes: int) -> Iterator[list[str]]:
    """Tensors of a shard each."""
    group: list[str] = []
    size = 0
    for name in weights.names:
        if group and size + weights.num_bytes(name) > shard_bytes:
            yield group
            group, size = [], 0
        group.append(name)
        size += weights.num_bytes(name)
    yield group


def _rounded(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    rounded = tensor.to(dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise ModelError(
            f"is not finite in {_name(dtype)}", where=name, hint="the base or the adapter is broken"
        )
    return rounded


def copy_rest(base: Path, work: Path) -> None:
    """Everything that is not weights, unchanged but for generation tags in a template."""
    for path in sorted(base.iterdir()):
        ours = path.name == owned.MARKER  # of a base that was merged here itself
        if path.suffix in COPIED and not path.name.endswith(".safetensors.index.json") and not ours:
            (work / path.name).write_bytes(path.read_bytes())
    masks.remove_tags(work)


def _prove(
    parts: Parts,
    work: Path,
    rows: list[tuple[int, ...]],
    bound: float,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    num_models = 2 if parts.files.settings.quantization is Quantization.NONE else 3
    plain = proof.predict_tuned(parts, rows, quantized=False)
    progress("proof", 1, num_models)
    merged = proof.predict_folder(parts, work, rows)
    progress("proof", 1, num_models)
    found = divergence.compare(plain, merged)
    proof.refuse_divergence(found, bound, str(work.with_suffix("")))
    trained = None
    if num_models == 3:
        trained = divergence.compare(
            proof.predict_tuned(parts, rows, quantized=True), merged
        ).as_dict()
        progress("proof", 1, num_models)
    return {**found.as_dict(), "as_trained": trained}


def _bound(weights: MergedWeights) -> float:
    return proof.MOST_MEAN_KL[_main_dtype(weights)]


def _main_dtype(weights: MergedWeights) -> torch.dtype:
    """The dtype of most bytes."""
    sizes: dict[torch.dtype, int] = {}
    for name in weights.names:
        dtype = weights.dtype(name)
        sizes[dtype] = sizes.get(dtype, 0) + weights.num_bytes(name)
    return max(sizes, key=lambda dtype: sizes[dtype])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
