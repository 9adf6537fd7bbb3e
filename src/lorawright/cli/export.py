"""`lorawright export RUN --to gguf|ollama|vllm`: what other programs load."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lorawright.cli.options import Json, MaxKl, Output, Overwrite, ProofData, Run
from lorawright.i18n import units
from lorawright.types import GgufType


class Target(StrEnum):
    GGUF = "gguf"
    OLLAMA = "ollama"
    VLLM = "vllm"


def export(
    run: Run,
    to: Annotated[Target, typer.Option("--to", help="For which program.")],
    type_: Annotated[
        list[GgufType] | None,
        typer.Option("--type", help="How a GGUF holds its weights; again for more files."),
    ] = None,
    output: Output = None,
    data: ProofData = None,
    max_kl: MaxKl = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write files for llama.cpp, Ollama or vLLM, and prove them."""
    from lorawright.cli import console
    from lorawright.cli.progress import TaskBar
    from lorawright.distributed.signals import quiet
    from lorawright.run.folder import open_run, read_config

    types = type_ or [GgufType.Q8_0 if to is Target.OLLAMA else GgufType.F16]
    _refuse(to, type_)
    folder, _ = open_run(run)
    config = read_config(folder)
    quiet()
    from lorawright.cli.verdict import renew_report
    from lorawright.exporters import gguf, ollama, vllm

    options = gguf.Options(
        types=tuple(types),
        output=Path(output) if output else None,
        data=data,
        max_mean_kl=max_kl,
        overwrite=overwrite,
    )
    with TaskBar(quiet=json) as progress:
        if to is Target.VLLM:
            found = vllm.run(folder, config)
            adapter = found["path"]
        elif to is Target.OLLAMA:
            found = ollama.run(folder, config, options, progress)
            adapter = found["gguf"]["adapter"]
        else:
            found = gguf.run(folder, config, options, progress)
            adapter = next(iter(found.values()))["adapter"]
    console.note_unfinished(adapter)
    renew_report(folder.path)
    if json:
        console.print_json(found)
    else:
        PRINTERS[to](found)
    if to is Target.VLLM:
        vllm.refuse_unservable(found)


def _refuse(to: Target, types: list[GgufType] | None) -> None:
    from lorawright.errors import ConfigError

    if to is Target.VLLM and types:
        raise ConfigError(
            "a type of GGUF has no use with vLLM", where="--type", hint="leave --type out"
        )
    if to is Target.OLLAMA and types and len(types) > 1:
        raise ConfigError(
            "one Modelfile names one file", where="--type", hint="export once for each type"
        )


def _print_gguf(found: dict[str, Any]) -> None:
    from lorawright.cli import console

    for name, entry in found.items():
        console.out().print(
            f"{name}: {entry['path']}, {units.size(entry['num_bytes'])}\n"
            f"  against base + adapter: {console.divergence(entry)}"
        )


def _print_ollama(found: dict[str, Any]) -> None:
    from lorawright.cli import console

    _print_gguf({found["gguf"]["type"]: found["gguf"]})
    out = console.out()
    num, equal, json = (found[f"num_renders{rest}"] for rest in ("", "_equal", "_equal_json"))
    out.print(
        f"template: of {num} prompts {equal} are rendered alike, {json} but for the spelling of "
        f"JSON, {num - equal - json} otherwise"
    )
    for where in found["differences"][:3]:
        console.note(f"rendered otherwise by Ollama: {where}")
    out.print(f"Modelfile: {found['modelfile']}")
    for command in found["commands"]:
        out.print(f"  {command}")


def _print_vllm(found: dict[str, Any]) -> None:
    from lorawright.cli import console

    out = console.out()
    for check in found["checks"]:
        style = "green" if check["ok"] else "bold red"
        out.print(
            console.lead(
                style,
                "ok" if check["ok"] else "no",
                f"{check['rule']}: {check['found']}",
                between="  ",
            )
        )
    for name, command in found["commands"].items():
        if command is not None:
            out.print(f"{name}: {command}")


PRINTERS = {
    Target.GGUF: _print_gguf,
    Target.OLLAMA: _print_ollama,
    Target.VLLM: _print_vllm,
}
