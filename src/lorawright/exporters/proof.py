"""Base + adapter and an exported model → KL divergence between them; refused above a bound.

    base + adapter ─► Predictions ─┐
                                   ├─► Divergence ─► refuse_divergence
    exported model ─► Predictions ─┘

One model is in memory at a time. What every export asks before it writes stands here, too: which
parts it starts from, and whether the disk has room.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorawright.config.schema import Config
from lorawright.errors import ModelError, RunFolderError
from lorawright.exporters.merged_weights import MergedWeights, plan
from lorawright.i18n import units
from lorawright.model import divergence, tuned
from lorawright.model.divergence import Divergence, Predictions
from lorawright.model.tuned import TunedFiles
from lorawright.run.folder import RunFolder
from lorawright.types import GgufType

SLACK_BYTES = 64 * 1024**2  # tokenizer, configs, the file system's own

# Mean KL in nats that rounding explains. A bfloat16 weight has 8 bits of precision: 4e-3 of it are
# lost where base + adapter keeps the update apart. docs/log.md has what was measured.
MOST_MEAN_KL = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 1e-2}

# Mean KL in nats above which a GGUF is not kept: several times what the type costs a small model,
# far below what a permuted matrix or a wrong token costs. docs/log.md has what was measured.
MOST_MEAN_KL_GGUF = {
    GgufType.F32: 1e-4, GgufType.F16: 5e-3, GgufType.BF16: 2e-2, GgufType.Q8_0: 5e-2,
    GgufType.Q5_1: 0.3, GgufType.Q5_0: 0.3, GgufType.Q4_1: 0.6, GgufType.Q4_0: 0.6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """What a merge or an export starts from.

    Attributes:
        files: Base and adapter.
        weights: What becomes of each tensor.
    """

    files: TunedFiles
    weights: MergedWeights


def open_parts(folder: RunFolder, config: Config) -> Parts:
    """Base and adapter of a run, checked against each other.

    Raises:
        RunFolderError: The run has no adapter.
        ModelError: The base is gone or another, or a value is not finite.
    """
    files = tuned.find(folder, config.model)
    trust = config.model.trust_remote_code
    return Parts(files, plan(files.base, files.adapter, trust_remote_code=trust))


def refuse_full_disk(target: Path, num_bytes: int) -> None:
    """Raises RunFolderError where the files would not fit; called before one is written."""
    existing = next(path for path in (target, *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes + SLACK_BYTES:
        raise RunFolderError(
            f"has {units.size(free)} free, {units.size(num_bytes + SLACK_BYTES)} are needed",
            where=str(existing),
            hint="make room, or choose another disk with --output",
        )


def refuse_divergence(found: Divergence, bound: float, where: str) -> None:
    """Raises ModelError above the bound, or where a logit is not a number."""
    if not found.mean_kl <= bound:
        raise ModelError(
            f"predicts otherwise than base + adapter: mean KL {found.mean_kl:.2g}, the bound is "
            f"{bound:.2g}; first choice equal at {found.top1_agreement:.1%} of "
            f"{found.num_positions} positions",
            where=where,
            hint="nothing was kept; `--max-kl` moves the bound, if you know why",
        )


def predict_tuned(parts: Parts, rows: Sequence[Sequence[int]], *, quantized: bool) -> Predictions:
    """Of base + adapter.

    Args:
        parts: Base and adapter.
        rows: Ids of the chats to predict.
        quantized: As in training, if the run was one of QLoRA.
    """
    base = parts.files.load_base(quantized=quantized)
    return predict(parts.files.add_adapter(base), rows)


def predict_folder(parts: Parts, folder: Path, rows: Sequence[Sequence[int]]) -> Predictions:
    """Of a merged folder, through plain Transformers."""
    return predict(parts.files.load_base(folder, quantized=False), rows)


def predict(model: Any, rows: Sequence[Sequence[int]]) -> Predictions:
    """Of a model that nobody else holds; its memory is free afterwards."""
    found = divergence.predict(model, rows)
    del model
    gc.collect()  # modules refer to each other: without this two models are in memory
    return found
