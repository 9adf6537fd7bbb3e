"""`lorawright quickstart`: check, inspect, train, compare; a minute, no download."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

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


def quickstart(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where it writes.")] = "quickstart",
) -> None:
    """Fine-tune the model in the package: a minute, no network."""
    from lorawright.cli import console
    from lorawright.cli.check import check
    from lorawright.cli.inspect import inspect
    from lorawright.distributed.signals import quiet

    started = time.perf_counter()
    config = write(Path(folder))
    out = console.out()
    out.rule("1. check", align="left")
    check(str(config))
    out.rule("2. inspect: what is trained is between ⟦ ⟧", align="left")
    inspect(str(config), num_rows=2)
    out.rule("3. train", align="left")
    quiet()
    from lorawright.cli.screen import TrainScreen
    from lorawright.cli.train import print_result, resume_command
    from lorawright.config import load
    from lorawright.training import train

    with TrainScreen() as screen:
        result = train.run(
            load(config).config,
            start=train.Start.OVERWRITE,
            tell=screen,
            source=config,
            command=resume_command(str(config), []),
        )
    print_result(result)
    out.rule("4. the same questions to base and tuned model", align="left")
    _compare(result.folder.path)
    out.rule(f"done in {time.perf_counter() - started:.0f} s", align="left")
    out.print(f"the config   {config}", markup=False)
    out.print(f"the run      {result.folder.path}", markup=False)
    out.print(f"the adapter  {result.folder.adapter}", markup=False)
    out.print("your own     lorawright init my-project", markup=False)


def _compare(run: Path) -> None:
    from rich.table import Table

    from lorawright.cli import console
    from lorawright.config.schema import ModelSettings, TemplateSettings
    from lorawright.i18n.catalogue import translate
    from lorawright.inference.generate import ChatModel, Sampling
    from lorawright.run.folder import open_run

    folder, config = open_run(run)
    base = ModelSettings.model_validate(config["model"])
    model = ChatModel.load(folder, base, TemplateSettings())
    table = Table()
    for title in ("question", "base", "tuned"):
        table.add_column(translate(title), overflow="fold")
    for question in questions():
        messages = [{"role": "user", "content": question}]
        answers = [
            "".join(model.answer(messages, Sampling(max_new_tokens=64), base=base))
            for base in (True, False)
        ]
        table.add_row(question, *answers)
    console.out().print(table)


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
