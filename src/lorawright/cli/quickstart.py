"""`lorawright quickstart`: check, inspect, train, compare; a minute, no download."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where it writes.")] = "quickstart",
) -> None:
    """Fine-tune the model in the package: a minute, no network."""
    from lorawright.cli import console
    from lorawright.cli.check import check
    from lorawright.cli.inspect import inspect
    from lorawright.cli.quickstart_run import write
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
    from lorawright.cli.quickstart_run import questions
    from lorawright.config.schema import ModelSettings
    from lorawright.i18n.catalogue import translate
    from lorawright.inference.generate import ChatModel, Sampling
    from lorawright.run.folder import open_run

    folder, config = open_run(run)
    model = ChatModel.load(folder, ModelSettings.model_validate(config["model"]))
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
