"""Damaged runs for `tools/fuzz.py`: a finished run of the tiny model, one or two of its files
truncated, garbled, gone, of another type or another kind, and a verb that reads it."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fuzz_case import Case, changed, damaged, says_something

QUESTIONS = ["Who are you?", "What is 2 plus 3?", "Name a colour.", "Count to five."]
ODD: list[Any] = [
    None, True, 0, -1, 1e308, -1e400, 2**70, "", "x", "[/b]", "../..", "a/b", [], {}, [[]],
    {"": None}, [None], {"a": [1]}, 3.5, "1e9", "hf://a/b", "\0",
]  # fmt: skip
KEYS = ["step", "loss", "eval_loss", "files", "format", "name", "x", "tuned", "base", "", "samples"]
NAMED = (
    "config.yaml", "result.json", "metrics.jsonl", "plan.json", "rows.json", "environment.json",
    "certificate.json", "data.json", "rejected.jsonl", "lorawright.json", "evaluation.json",
    "merge.json", "lock.json", "export-vllm.json", "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors", "adapter/lorawright.json", "adapter/README.md",
)  # fmt: skip
READING = (
    ["report", "run"], ["report", "run"], ["report", "run", "other"],
    ["chat", "run", "-p", "Hi", "--max-new-tokens", "3"],
    ["evaluate", "run", "--samples", "1", "--max-new-tokens", "3", "--json"],
    ["merge", "run", "--json"], ["merge", "run", "--overwrite", "--json"],
    ["push", "run", "a/b", "--base-model", "a/b", "--dry-run", "--json"],
    ["export", "run", "--to", "vllm", "--json"],
)  # fmt: skip
TRAINING = (
    ["train", "c.yaml", "--resume"], ["train", "c.yaml", "--resume-anyway"], ["train", "c.yaml"],
    ["train", "c.yaml", "--overwrite"],
)  # fmt: skip
REWRITTEN = ("report.html", "evaluation.json", "merge.json", "export-", "merged", "vllm/")
FOREIGN = {"run/notes.txt": b"mine", "run/checkpoints/notes.txt": b"mine", "beside.txt": b"mine"}


@functools.cache
def base() -> Path:
    """The run that is copied: trained, evaluated and merged once."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rows = [
        {
            "messages": [
                {"role": "user", "content": QUESTIONS[number % 4]},
                {"role": "assistant", "content": f"I am number {number}."},
            ]
        }
        for number in range(16)
    ]
    for name, part in (("train", rows[:12]), ("eval", rows[12:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = {name: str(folder / f"{name}.jsonl") for name in ("train", "eval")}
    training = {"output": "run", "batch_size": 4, "epochs": 2, "save_steps": 2, "eval_steps": 2,
                "learning_rate": 1e-3, "trackers": []}  # fmt: skip
    config = {"model": {"name": "tiny", "dtype": "float32"}, "data": data, "training": training}
    (folder / "c.yaml").write_text(json.dumps(config))
    lines = (
        ["train", "c.yaml"], ["merge", "run"], ["export", "run", "--to", "vllm"],
        ["evaluate", "run", "--samples", "1", "--max-new-tokens", "3"],
    )  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LORAWRIGHT_CACHE": str(folder / "cache")}
    script = f"from lorawright.cli import run; exit(max(map(run, {lines!r})))"  # torch loads once
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def copied(folder: Path, rng: random.Random) -> None:
    """A copy of the run and its config in the case's folder, finished or as a kill left it."""
    for name in ("run", "other"):
        shutil.copytree(base() / "run", folder / name)
    shutil.copy(base() / "c.yaml", folder / "c.yaml")
    if rng.random() < 0.3:
        shutil.rmtree(folder / "run" / "adapter")
        (folder / "run" / "result.json").unlink()
    for name, content in FOREIGN.items():
        (folder / name).write_bytes(content)


def make(folder: Path, rng: random.Random) -> Case:
    """One damaged run and a command line."""
    copied(folder, rng)
    for _ in range(rng.choice([1, 1, 2])):
        damage(folder / "run", rng)
    arguments = rng.choice([*READING, *READING, *TRAINING])
    before = contents(folder)

    def nothing_lost(answer: dict[str, Any]) -> list[str]:
        return lost(arguments, before, contents(folder), answer["code"])

    return Case(list(arguments), is_json=False, afterwards=(nothing_lost, says_something))


def contents(folder: Path) -> dict[str, str]:
    """Digests of all regular files."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            if path.is_file() and not path.is_symlink() and "cache" not in path.parts:
                relative = path.relative_to(folder).as_posix()
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def lost(
    arguments: list[str], before: dict[str, str], after: dict[str, str], code: int
) -> list[str]:
    """Files that are gone or other ones, though the verb had no business with them."""
    gone = [name for name in FOREIGN if after.get(name) != before.get(name)]
    if arguments[0] != "train":
        gone += [
            name
            for name, digest in before.items()
            if after.get(name) != digest
            and not name.removeprefix("run/").startswith(REWRITTEN)
            and name != "comparison.html"
        ]
    elif code and "--overwrite" not in arguments:  # broken checkpoints are renamed
        kept = set(after.values())
        may_go = ("run/metrics.jsonl", "run/lock.json", "run/report.html")
        gone += [n for n, digest in before.items() if digest not in kept and n not in may_go]
    return [f"lost: {', '.join(sorted(set(gone))[:5])}"] if gone else []


def damage(run: Path, rng: random.Random) -> None:
    """One file of a run truncated, garbled, gone, or with another value in it."""
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name != "notes.txt"]
    named = [run / name for name in NAMED]
    path = rng.choice(named) if rng.random() < 0.7 else rng.choice(files)
    if not path.parent.is_dir() or path.is_dir():
        return
    if path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)
        path.write_text("{}")
    way = rng.random()
    structured = STRUCTURED.get(path.suffix)
    if structured is not None and way < 0.55:
        try:
            path.write_bytes(structured(path.read_bytes(), rng))
            return
        except (ValueError, yaml.YAMLError):  # damaged already
            pass
    if way < 0.85:
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content) + 1)] if way < 0.7 else
                         damaged(content, rng))  # fmt: skip
        return
    path.unlink()
    if way < 0.88:
        path.mkdir()
    elif way < 0.9:
        path.symlink_to("nowhere")
    elif way < 0.92:
        os.mkfifo(path)
    elif way < 0.94:
        path.write_bytes(b"\xff\xfe\0{}")


def _json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(_several(json.loads(content), rng)).encode()


def _yaml(content: bytes, rng: random.Random) -> bytes:
    made = _several(yaml.safe_load(content), rng)
    return yaml.safe_dump(made, allow_unicode=True).encode("utf-8", "surrogatepass")


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = [json.loads(line) for line in content.splitlines()]
    at = rng.randrange(len(lines)) if lines else 0
    lines[at : at + 1] = [_several(lines[at] if lines else {}, rng)]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _several(value: Any, rng: random.Random) -> Any:
    for _ in range(rng.choice([1, 1, 2])):
        value = changed(value, rng, ODD, KEYS)
    return value


STRUCTURED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".yaml": _yaml,
}
