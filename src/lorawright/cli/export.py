"""`lorawright export RUN --to gguf|ollama|vllm`: what other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorawright.cli.options import Json, MaxKl, Output, Overwrite, ProofData, Run
from lorawright.i18n import units
from lorawright.types import ExportTarget, GgufType

if TYPE_CHECKING:
    from lorawright.config.schema import Config
    from lorawright.exporters.gguf import Options, Progress
    from lorawright.run.folder import RunFolder


def export(
    run: Run,
    to: Annotated[ExportTarget, typer.Option("--to", help="For which program.")],
    type_: Annotated[
        list[GgufType] | None,
        typer.Option("--type", help="How a GGUF holds its weights; again for more files."),
    ] = None,
    adapter_only: Annotated[
        bool,
        typer.Option("--adapter-only", help="A GGUF of the adapter alone, for the base's own."),
    ] = False,
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

    types = type_ or [GgufType.Q8_0 if to is ExportTarget.OLLAMA else GgufType.F16]
    _refuse(to, type_)
    if adapter_only:
        _refuse_adapter_only(to, type_, data, max_kl)
    folder, _ = open_run(run)
    config = read_config(folder)
    quiet()
    from lorawright.cli.verdict import renew_report
    from lorawright.exporters import gguf, vllm

    options = gguf.Options(
        types=tuple(types),
        output=Path(output) if output else None,
        data=data,
        max_mean_kl=max_kl,
        overwrite=overwrite,
    )
    with TaskBar(quiet=json) as progress:
        found, adapter = _write(to, folder, config, options, adapter_only, progress)
    console.note_unfinished(adapter)
    renew_report(folder.path)
    if json:
        console.print_json(found)
    else:
        (_print_adapter if adapter_only else PRINTERS[to])(found)
    if to is ExportTarget.VLLM:
        vllm.refuse_unservable(found)


def _write(
    to: ExportTarget,
    folder: RunFolder,
    config: Config,
    options: Options,
    adapter_only: bool,
    progress: Progress,
) -> tuple[dict[str, Any], str]:
    """The verb's result, and where the exported adapter lies."""
    from lorawright.exporters import gguf, gguf_lora, ollama, vllm

    if adapter_only:
        found = gguf_lora.run(folder, config, options.output, overwrite=options.overwrite)
        return found, found["adapter"]
    if to is ExportTarget.VLLM:
        found = vllm.run(folder, config)
        return found, found["path"]
    if to is ExportTarget.OLLAMA:
        found = ollama.run(folder, config, options, progress)
        return found, found["gguf"]["adapter"]
    found = gguf.run(folder, config, options, progress)
    return found, next(iter(found.values()))["adapter"]


def _refuse(to: ExportTarget, types: list[GgufType] | None) -> None:
    from lorawright.errors import ConfigError

    if to is ExportTarget.VLLM and types:
        raise ConfigError(
            "a type of GGUF has no use with vLLM", where="--type", hint="leave --type out"
        )
    if to is ExportTarget.OLLAMA and types and len(types) > 1:
        raise ConfigError(
            "one Modelfile names one file", where="--type", hint="export once for each type"
        )


def _refuse_adapter_only(
    to: ExportTarget, types: list[GgufType] | None, data: str | None, max_kl: float | None
) -> None:
    from lorawright.errors import ConfigError

    given = {"--type": types, "--data": data, "--max-kl": max_kl}
    useless = next((option for option, value in given.items() if value is not None), None)
    if to is not ExportTarget.GGUF:
        raise ConfigError(
            f"has no use with --to {to}", where="--adapter-only", hint="write --to gguf"
        )
    if useless is not None:
        raise ConfigError(
            "has no use with --adapter-only: the adapter stays float32, and no model is run",
            where=useless,
            hint=f"leave {useless} out",
        )


def _print_adapter(found: dict[str, Any]) -> None:
    from lorawright.cli import console

    console.out().print(
        f"adapter: {found['path']}, {units.size(found['num_bytes'])}\n"
        f"  rank {found['rank']}, alpha {found['alpha']:g}; against PEFT's updates: at most "
        f"{found['max_error']:.1g} of the largest value"
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
    ExportTarget.GGUF: _print_gguf,
    ExportTarget.OLLAMA: _print_ollama,
    ExportTarget.VLLM: _print_vllm,
}
