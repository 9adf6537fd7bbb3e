"""Foreign files in and beside a run for `tools/fuzz.py`, and a verb that replaces or removes what
is ours there: every foreign byte stays."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path
from typing import Any

import fuzz_runs
from fuzz_case import Case

NAMES = (
    "notes.txt", "config.yml", "x", "数据.txt", "a b", "-rf", "[/b]", ".hidden", "run",
    "adapter.zip",
    "best.safetensors", "checkpoint-9x", "lorawright.txt", "café.json",
)  # fmt: skip
BEHIND = (".bak", "~", ".orig", " (copy)", ".1", ".lock", ".old.gz", ".tmp2")
LINES = (
    ["train", "c.yaml", "--overwrite"], ["train", "c.yaml", "--overwrite"],
    ["train", "c.yaml", "--resume"], ["train", "c.yaml"],
    ["train", "c.yaml", "--overwrite", "--set", "lora.target_modules=[nope]"],
    ["train", "c.yaml", "--overwrite", "--set", "data.train=gone.jsonl"],
    ["train", "c.yaml", "--overwrite", "--set", "training.learning_rate=1e30"],
    ["train", "c.yaml", "--set", "training.output=."],
    ["train", "c.yaml", "--set", "training.output=new/run", "--set", "lora.target_modules=[nope]"],
    ["train", "c.yaml", "--set", "training.output=new/run"],
    ["merge", "run", "--overwrite"], ["merge", "run", "--output", "new", "--overwrite"],
    ["merge", "run", "--output", "new/merged"], ["merge", "run", "--max-kl", "0", "--overwrite"],
    ["export", "run", "--to", "vllm"], ["report", "run"], ["quickstart", "new"], ["init", "new"],
    ["eject", "c.yaml"], ["eject", "c.yaml", "--out", "new"],
)  # fmt: skip


def make(folder: Path, rng: random.Random) -> Case:
    """A run, foreign files, and a command line."""
    fuzz_runs.copied(folder, rng)
    foreign = {folder / name: content for name, content in fuzz_runs.FOREIGN.items()}
    for _ in range(rng.choice([1, 3, 12])):
        path = _place(folder, rng)
        if path is None or os.path.lexists(path) or not _is_free(path.parent, folder):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        foreign[path] = rng.randbytes(rng.choice([0, 1, 30]))
        path.write_bytes(foreign[path])
    links = _link(folder, rng)
    check = functools.partial(_all_there, foreign, links)
    return Case(list(rng.choice(LINES)), is_json=False, afterwards=(check,))


def _place(folder: Path, rng: random.Random) -> Path | None:
    """A path of a name that is foreign, in a folder of ours or a new one."""
    ours = [path for path in sorted((folder / "run").rglob("*")) if path.is_file()]
    parents = sorted({path.parent for path in ours})
    near = rng.choice([*parents, folder, folder / "new", folder / "new" / "run"])
    deeper = [rng.choice(NAMES)] if rng.random() < 0.3 else []
    name = rng.choice(NAMES)
    if rng.random() < 0.4:
        name = rng.choice(ours).name + rng.choice(BEHIND)
    return Path(near, *deeper, name)


def _is_free(parent: Path, folder: Path) -> bool:
    return all(path.is_dir() or not os.path.lexists(path) for path in (parent, *parent.parents)
               if folder in path.parents)  # fmt: skip


def _link(folder: Path, rng: random.Random) -> dict[Path, str]:
    """A link to a folder outside, with a file in it."""
    if rng.random() < 0.7:
        return {}
    (folder / "outside").mkdir(exist_ok=True)
    (folder / "outside" / "optimizer.pt").write_bytes(b"precious")
    place = folder / "run" / rng.choice(["link", "adapter/link", "checkpoints/link", "merged/link"])
    if not place.parent.is_dir():
        return {}
    place.symlink_to(folder / "outside")
    return {place: str(folder / "outside")}


def _all_there(
    foreign: dict[Path, bytes], links: dict[Path, str], answer: dict[str, Any]
) -> list[str]:
    gone = [
        str(p) for p, content in foreign.items() if not p.is_file() or p.read_bytes() != content
    ]
    gone += [str(path) for path, goal in links.items() if not path.is_symlink()]
    for goal in set(links.values()):
        if Path(goal, "optimizer.pt").read_bytes() != b"precious":
            gone.append(goal)
    return [f"lost: {', '.join(sorted(gone)[:5])}"] if gone else []
