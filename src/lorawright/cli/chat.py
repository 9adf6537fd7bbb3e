"""`lorawright chat RUN`: answers of base or adapter, as they are generated."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lorawright.cli.options import Run


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
    serve: Annotated[
        bool, typer.Option("--serve", help="Answer OpenAI clients on this machine instead.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0: a free one.")] = 8000,
) -> None:
    """Talk to a run; /base asks the base model the same, /retry asks again."""
    from lorawright.cli import console
    from lorawright.distributed.signals import quiet
    from lorawright.errors import ConfigError
    from lorawright.run.folder import open_run, read_config

    if serve and (base or prompt is not None):
        raise ConfigError(
            "cannot be combined with --base or --prompt", where="--serve", hint="choose one"
        )
    folder, _ = open_run(run)
    config = read_config(folder)
    if serve:
        from lorawright.inference import server as endpoint

        endpoint.refuse_missing_packages()
    quiet()
    from lorawright.inference.generate import ChatModel, Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    if serve:
        bound = endpoint.bind(port)
        name = folder.path.resolve().name
        model = ChatModel.load(folder, config.model, config.template)
        console.note(
            f"{name} at http://{endpoint.HOST}:{bound.getsockname()[1]}/v1 for OpenAI clients; "
            "any API key; Ctrl-C ends"
        )
        endpoint.serve(model, name, bound, sampling)
        sys.stderr.flush()
        os._exit(0)  # nothing is left to do, and torch takes 1 to 7 s to take itself down
    model = ChatModel.load(folder, config.model, config.template)
    if prompt is None:
        from lorawright.cli.chat_session import ChatSession

        ChatSession(model, sampling, base, system).run()
        return
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    for piece in model.answer(messages, sampling, base=base):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
