"""`lorawright chat RUN`: answers of base or adapter, as they are generated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lorawright.cli.options import Run

if TYPE_CHECKING:
    from lorawright.talk import Sampling, Talker


def chat(
    run: Run,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this, print the answer, end.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Answer without the adapter.")] = False,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0: the most likely token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Talk to a run; `--base` answers without the adapter."""
    from lorawright.cli.quiet import quiet
    from lorawright.config.schema import ModelSettings
    from lorawright.run_folder import open_run

    folder, config = open_run(run)
    quiet()
    from lorawright.talk import Sampling, Talker

    talker = Talker.load(folder, ModelSettings.model_validate(config["model"]))
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    history = [] if system is None else [{"role": "system", "content": system}]
    if prompt is not None:
        _answer(talker, [*history, {"role": "user", "content": prompt}], sampling, base)
        return
    _converse(talker, history, sampling, base)


def _answer(talker: Talker, messages: list[dict[str, str]], sampling: Sampling, base: bool) -> str:
    pieces: list[str] = []
    for piece in talker.answer(messages, sampling, base=base):
        pieces.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces)


def _converse(
    talker: Talker, history: list[dict[str, str]], sampling: Sampling, base: bool
) -> None:
    from lorawright.cli import console

    console.note("an empty line or Ctrl-D ends; /new begins a new chat")
    first = list(history)
    while True:
        try:
            text = console.err().input("[bold cyan]you[/]: ").strip()
        except EOFError:
            return
        if not text:
            return
        if text == "/new":
            history = list(first)
            continue
        history.append({"role": "user", "content": text})
        console.err().print(f"[bold green]{'base' if base else 'tuned'}[/]: ", end="")
        history.append({"role": "assistant", "content": _answer(talker, history, sampling, base)})
