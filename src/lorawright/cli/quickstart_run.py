"""The main job on what is inside the package: the tiny model learns to speak for a bookshop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from lorawright.errors import RunFolderError
from lorawright.i18n.catalogue import Language, translate_comments

CONFIG = """\
# What `lorawright quickstart` runs: the model inside the package, fine-tuned in seconds on a CPU.
model:
  name: tiny
  dtype: float32                     # small enough that bfloat16 gains nothing
data:
  train: data/train.jsonl
  eval: data/eval.jsonl
training:
  output: run
  epochs: 3
  learning_rate: 1.0e-2              # a tiny model needs large steps; Qwen2.5 does not
  eval_steps: 40
  save_steps: 40
"""


def write(folder: Path) -> Path:
    """Config and demo chats; returns the config's path.

    Raises:
        RunFolderError: The folder holds something else than an earlier quickstart.
    """
    demo = files("lorawright") / "assets" / "demo"
    contents = {"config.yaml": translate_comments(CONFIG).encode()} | {
        f"data/{name}": (demo / name).read_bytes() for name in ("train.jsonl", "eval.jsonl")
    }
    in_any_language = {translate_comments(CONFIG, one).encode() for one in Language}
    config = folder / "config.yaml"
    another = "name another: `lorawright quickstart DIR`"
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not config.is_file()):
        raise RunFolderError("is not empty", where=str(folder), hint=another)
    for name, content in contents.items():
        path = folder / name
        earlier = in_any_language if path == config else {content}
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() in earlier):
            raise RunFolderError(
                "is not what an earlier quickstart wrote", where=str(path), hint=another
            )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    return config


def questions() -> Iterator[str]:
    """What base and tuned model are both asked."""
    path = files("lorawright") / "assets" / "demo" / "questions.json"
    yield from json.loads(path.read_text(encoding="utf-8"))
