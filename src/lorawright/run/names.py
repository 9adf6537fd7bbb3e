"""Names of the files a run writes; by them a run is removed, and nothing else is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from lorawright.run import checkpoint, owned
from lorawright.run.files import TEMPORARY
from lorawright.run.owned import ASIDE, MARKER, files_in
from lorawright.types import GgufType

LOCK = "lock.json"
FILES = (
    MARKER, "config.yaml", "environment.json", "certificate.json", "data.json", "rejected.jsonl",
    "metrics.jsonl", "plan.json", "rows.json", "result.json", "report.html", "evaluation.json",
    "merge.json", "export-gguf.json", "export-gguf-lora.json",
    "export-ollama.json", "export-vllm.json",
)  # fmt: skip
MODEL_FOLDERS = tuple(
    name + rest for name in ("adapter", "merged") for rest in ("", TEMPORARY, ASIDE)
)
EXPORT_FOLDERS = ("gguf", "ollama")
FOLDERS = (
    *MODEL_FOLDERS, *EXPORT_FOLDERS, "checkpoints", "tensorboard", "launch", "vllm", "lm-eval",
)  # fmt: skip
INSIDE = {
    "tensorboard": re.compile(r"(.*/)?events\.out\.tfevents\..+"),
    "launch": re.compile(
        r"(machine-\d+/)?(accelerate\.yaml|deepspeed\.json|job\.json|output\.log|launcher\.log|"
        r"rank-\d+\.(out|log)|meeting)(\.tmp)?"
    ),
    "vllm": re.compile(r"chat_template\.jinja|generation_config\.json"),
    "lm-eval": re.compile(r"(.*/)?(results|samples)_[^/]+\.jsonl?"),
}


def own_files(run: Path) -> list[str]:
    """Relative names of the files in a run folder that a run has written, the marker last."""
    marker = owned.read(run)
    found = [name + rest for name in FILES[1:] for rest in ("", TEMPORARY)]
    found += [path.name for path in run.glob(f"{LOCK}.*")]
    found += [] if marker is None else marker.files
    for name in FOLDERS:
        folder = run / name
        if folder.is_dir() and not folder.is_symlink():
            found += [f"{name}/{inner}" for inner in _own_inside(run, name)]
    return [*found, MARKER + TEMPORARY, MARKER]


def _own_inside(run: Path, name: str) -> Iterator[str]:
    folder = run / name
    if name == "checkpoints":
        for inner in folder.iterdir():
            if checkpoint.ANY_NAME.fullmatch(inner.name) and not inner.is_symlink():
                yield from (f"{inner.name}/{one}" for one in checkpoint.own_files(inner))
        return
    marker = owned.read(folder)
    if marker is not None:
        yield from (*marker.files, MARKER, MARKER + TEMPORARY)
    elif name in MODEL_FOLDERS:
        yield from (one for one in files_in(folder) if owned.MODEL_FILE.fullmatch(one))
    elif name in EXPORT_FOLDERS:
        yield from written_exports(run, folder)
    else:
        yield from (one for one in files_in(folder) if INSIDE[name].fullmatch(one))


def written_exports(run: Path, folder: Path) -> list[str]:
    """Names of the files in a folder that exports before the first marker have written.

    Args:
        run: The run, which notes what was exported.
        folder: One inside the run, which may have moved since, or exactly the one that was noted.
    """
    entries = _read(run / "export-gguf.json").values()
    paths = [str(one["path"]) for one in entries if isinstance(one, dict) and "path" in one]
    kinds = tuple(f"-{kind}.gguf" for kind in GgufType)
    noted = [Path(path) for path in paths if path.endswith(kinds)]
    modelfile = _read(run / "export-ollama.json").get("modelfile")
    noted += [] if modelfile is None else [Path(str(modelfile))]
    place = folder.resolve()
    inside = place.parent == run.resolve()
    return [path.name for path in noted if inside or path.parent.resolve() == place]


def linked(run: Path) -> Path | None:
    """The first of our names that is a link; what is written there would be written elsewhere."""
    return next((run / name for name in (*FILES, *FOLDERS) if (run / name).is_symlink()), None)


def taken(run: Path) -> Path | None:
    """The first thing that a new run would write over; a folder that holds nothing is none."""
    for name in (*FILES, *FOLDERS):
        path = run / name
        if name == "launch" and not path.is_symlink():
            continue  # another machine's files may have come first
        if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
            return path
    return None


def remaining(run: Path) -> list[str]:
    """What is in a run folder besides its lock and what a run writes at its root."""
    found: list[str] = []
    for entry in sorted(run.iterdir()) if run.is_dir() else []:
        if entry.name in FOLDERS and entry.is_dir():
            found += [f"{entry.name}/{name}" for name in sorted(files_in(entry))]
        elif not (entry.name in FILES or entry.name.startswith(LOCK)):
            found.append(entry.name)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
