"""A run and file types → GGUF files for llama.cpp and what is built on it, each proven twice.

Read back with the `gguf` package: the bytes of every tensor, tokens, merges, template, end token,
and the ids that llama.cpp makes of them. Loaded again: the logits against base + adapter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from transformers import AutoConfig

from lorawright import masks
from lorawright.config.schema import Config
from lorawright.errors import ModelError, RunFolderError
from lorawright.evaluation import chats
from lorawright.exporters import gguf_file, gguf_tokenizer, proof
from lorawright.exporters.gguf_families import CONVERTER_HINT
from lorawright.exporters.gguf_file import Layout
from lorawright.exporters.gguf_tokenizer import GgufTokenizer
from lorawright.exporters.proof import Parts
from lorawright.model import divergence
from lorawright.model.divergence import Predictions
from lorawright.model.load import TORCH_DTYPE
from lorawright.run import names, owned
from lorawright.run.files import sync
from lorawright.run.folder import RunFolder
from lorawright.run.owned import Kind, Marker
from lorawright.training import failures
from lorawright.types import GgufType

RESULT = "export-gguf.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """Which files, where to, and how they are proven.

    Attributes:
        types: One file each.
        output: Their folder; `gguf` in the run folder by default.
        data: Other chats for the proof than the run's evaluation set.
        max_mean_kl: The bound; by default by type and dtype.
        overwrite: Replace files that are there.
    """

    types: tuple[GgufType, ...] = (GgufType.F16,)
    output: Path | None = None
    data: str | None = None
    max_mean_kl: float | None = None
    overwrite: bool = False


def run(
    folder: RunFolder, config: Config, options: Options, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Writes and proves the files; adds them to `export-gguf.json`.

    The run folder is held meanwhile, see `make`.
    """
    with failures.results_into(folder, "export"):
        return make(folder, config, options, progress)


def make(
    folder: RunFolder, config: Config, options: Options, progress: Progress
) -> dict[str, dict[str, Any]]:
    """As `run`, in a run folder that is held already.

    Returns:
        The figures of each type.

    Raises:
        LorawrightError: See `proof.open_parts`; a model this does not convert, a file that is
            taken, a full disk, or one that is further from base + adapter than the bound.
    """
    output = options.output or folder.path / "gguf"
    name = folder.path.resolve().name
    paths = {kind: output / f"{name}-{kind}.gguf" for kind in options.types}
    _refuse_all_taken(paths.values(), folder, options)
    parts = proof.open_parts(folder, config)
    where = parts.files.settings.name
    rows = chats.proof_rows(config, options.data)
    settings = AutoConfig.from_pretrained(
        parts.files.base, trust_remote_code=parts.files.settings.trust_remote_code
    )
    tokenizer = gguf_tokenizer.read(parts.files.base, where, settings.vocab_size)
    layouts = {
        kind: gguf_file.lay_out(parts.weights, settings, kind, where) for kind in options.types
    }
    proof.refuse_full_disk(output, sum(layout.num_bytes for layout in layouts.values()))
    found: dict[str, dict[str, Any]] = {}
    with failures.held_output(output, folder, "export"):
        _refuse_all_taken(paths.values(), folder, options)
        reference = proof.predict_tuned(parts, rows, quantized=False)
        task = _Task(parts, tokenizer, rows, reference, name, progress)
        for kind, path in paths.items():
            bound = (
                _usual_bound(kind, parts) if options.max_mean_kl is None else options.max_mean_kl
            )
            with failures.unwritable(output):
                output.mkdir(parents=True, exist_ok=True)
                found[str(kind)] = task.make(layouts[kind], path, bound)
            written = {**(folder.read_json(RESULT) or {}), **found}
            failures.write_result(folder, RESULT, written)
    return found


def _usual_bound(kind: GgufType, parts: Parts) -> float:
    """What the type's rounding explains, or that of the dtype in which both are computed."""
    dtype = TORCH_DTYPE[parts.files.settings.dtype]
    return max(proof.MOST_MEAN_KL_GGUF[kind], proof.MOST_MEAN_KL[dtype])


def _refuse_all_taken(paths: Iterable[Path], folder: RunFolder, options: Options) -> None:
    for path in paths:
        refuse_taken(path, folder, overwrite=options.overwrite)
        refuse_taken(unfinished(path), folder, overwrite=True)  # what a killed export left


def refuse_taken(path: Path, folder: RunFolder, *, overwrite: bool) -> None:
    """Raises RunFolderError if a file is there that is not ours, or was not to be replaced."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise RunFolderError(
            "is there already", where=str(path), hint="replace it with --overwrite"
        )
    marker = owned.read(path.parent)
    listed = names.written_exports(folder.path, path.parent) if marker is None else marker.files
    if path.is_symlink() or not path.is_file() or path.name not in listed:
        raise RunFolderError(
            "was not written by lorawright, or by another run",
            where=str(path),
            hint="choose another --output",
        )


def unfinished(path: Path) -> Path:
    """Where a file is written before it is proven; Transformers wants the name to end so."""
    return path.with_name(f"{path.stem}.tmp.gguf")


def note_written(path: Path) -> None:
    """Adds a file to the list of ours in its folder, before it is there."""
    marker = owned.read(path.parent) or Marker(Kind.EXPORT)
    owned.mark(path.parent, replace(marker, files=tuple({*marker.files, path.name})))


def strike_off(path: Path) -> None:
    """Takes a file that is gone off the list again; a list of nothing goes too."""
    marker = owned.read(path.parent)
    if marker is None:
        return
    files = tuple(name for name in marker.files if name != path.name)
    if files:
        owned.mark(path.parent, replace(marker, files=files))
    else:
        owned.remove(path.parent, [owned.MARKER])


@dataclass(frozen=True, slots=True)
class _Task:
    """What is the same for every type."""

    parts: Parts
    tokenizer: GgufTokenizer
    rows: Sequence[tuple[int, ...]]
    reference: Predictions
    name: str
    progress: Progress

    def make(self, layout: Layout, path: Path, bound: float) -> dict[str, Any]:
        """One file, complete or absent."""
        started = time.perf_counter()
        work = unfinished(path)
        note_written(work)
        try:
            digests = gguf_file.write(
                layout,
                self.parts.weights,
                self.tokenizer.add_to,
                work,
                self.tokenizer.safe_name(self.name),
                lambda num: self.progress(f"write {layout.type}", num, len(layout.entries)),
            )
            reader = GGUFReader(work)
            metadata = self.tokenizer.metadata()
            types = gguf_file.verify(work, layout, digests, metadata, reader)
            self._verify_tokenizer(work, reader)
            distance = divergence.compare(self.reference, self._predict(work, layout, reader))
            proof.refuse_divergence(distance, bound, str(path))
            note_written(path)
            sync(work)
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
            strike_off(work)
        return {
            "path": str(path),
            "adapter": str(self.parts.files.adapter),
            "type": str(layout.type),
            "architecture": layout.config.model_type,
            "num_bytes": path.stat().st_size,
            "num_tensors": len(layout.entries),
            "tensor_types": types,
            **distance.as_dict(),
            "seconds": time.perf_counter() - started,
        }

    def _predict(self, path: Path, layout: Layout, reader: GGUFReader) -> Predictions:
        """Of the file."""
        settings = self.parts.files.settings
        model = gguf_file.read_model(path, layout, TORCH_DTYPE[settings.dtype], reader)
        return proof.predict(model.to(self.parts.files.device.value).eval(), self.rows)

    def _verify_tokenizer(self, path: Path, reader: GGUFReader) -> None:
        """The file's tokenizer, as llama.cpp reads it, gives the ids of the model's own."""
        found = gguf_tokenizer.open_file(path, reader)
        ours = masks.load(self.parts.files.base, self.parts.files.settings.name)
        texts = [ours.decode(row) for row in self.rows]
        for text, ids in zip(texts, ours.encode(texts), strict=True):
            if found(text) != ids:
                raise ModelError(
                    f"its tokenizer reads {text[:40]!r} as other ids than the model's",
                    where=str(path),
                    hint=CONVERTER_HINT,
                )
