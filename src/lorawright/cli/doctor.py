"""`lorawright doctor`: versions, hardware, and what would be chosen here."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorawright.cli.options import Json
from lorawright.i18n import units
from lorawright.i18n.catalogue import translate

if TYPE_CHECKING:
    from lorawright.hardware import Hardware

LABEL_WIDTH = 14


def doctor(
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Check this model's template and architecture instead."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub.")] = None,
    json: Json = False,
) -> None:
    """Show versions, hardware and what `auto` means here; or what is proven of a model."""
    from lorawright.cli import console
    from lorawright.distributed.signals import quiet

    quiet()
    if model is not None:
        from lorawright.cli import model_report

        found = model_report.examine(model, revision)
        if json:
            console.print_json(found)
        else:
            model_report.show(found)
        return
    facts = examine()
    if json:
        console.print_json(facts)
        return
    out = console.out()
    for name, value in facts["packages"].items():
        out.print(f"{name:<{LABEL_WIDTH}} {value or 'not installed'}")
    hardware = facts["hardware"]
    out.print(
        f"\ndevice         {hardware['device']}: {hardware['name']}, "
        f"{units.size(hardware['memory_bytes'])} free, {hardware['num_threads']} threads"
    )
    for name, choice in facts["auto"].items():
        out.print(f"{_padded(translate(name))} {_choice(choice)}", markup=False)
    for line in facts["notes"]:
        out.print(f"note: {translate(line)}", markup=False)


def _padded(label: str) -> str:
    """As wide as the names of packages; a Chinese character is two columns wide."""
    from rich.cells import set_cell_size

    return set_cell_size(label, LABEL_WIDTH)


def _choice(text: str) -> str:
    """A message, or `bfloat16 (why)`."""
    shown = translate(text)
    value, gap, reason = text.partition(" (")
    if shown != text or not gap:
        return shown
    return f"{translate(value)}{gap}{translate(reason.removesuffix(')'))})"


def examine() -> dict[str, Any]:
    """Versions, hardware, choices and notes, as `doctor --json` prints them."""
    from lorawright import hardware, hub
    from lorawright.config.schema import Config
    from lorawright.plan import attention, settings
    from lorawright.run.environment import environment

    facts = hardware.detect()
    config = Config.model_validate({"model": {"name": hub.TINY}})
    resolved = settings.settle(config, facts, hub.model_folder(hub.TINY), longest_tokens=1024)
    return {
        **environment(facts),
        "hardware": asdict(facts),
        "auto": {
            "dtype": f"{resolved.config.model.dtype} ({resolved.reasons['model.dtype']})",
            "optimizer": (
                f"{resolved.config.training.optimizer} ({resolved.reasons['training.optimizer']})"
            ),
            "attention": attention.describe(
                attention.of(resolved.config, facts, hub.model_folder(hub.TINY))
            ),
            "threads": _threads(facts),
            "waiting": f"{hardware.describe_spin(os.environ)} (threads that wait for each other)",
        },
        "notes": _notes(facts),
    }


def _threads(facts: Hardware) -> str:
    given = os.environ.get("OMP_NUM_THREADS")
    why = f"OMP_NUM_THREADS={given}" if given else "OMP_NUM_THREADS is not set: torch decides"
    return f"{facts.num_threads} of {os.cpu_count()} CPU threads ({why})"


def _notes(facts: Hardware) -> list[str]:
    from lorawright.hardware import Device
    from lorawright.plan import attention

    notes: list[str] = []
    if facts.device is Device.CUDA and find_spec("bitsandbytes") is None:
        notes.append("`pip install lorawright[quantization]` adds 8-bit Adam and QLoRA")
    if facts.device is Device.CUDA and attention.broken_flash_attn():
        notes.append("flash_attn is installed and cannot be imported; PyTorch's attention is used")
    elif facts.device is Device.CUDA and find_spec("flash_attn") is None:
        notes.append("FlashAttention is not installed; PyTorch's attention is used")
    if facts.device is Device.CUDA and not facts.bfloat16:
        notes.append("this GPU has no bfloat16 arithmetic: training runs in float16, with a scaler")
    if facts.device is Device.CPU and not facts.bfloat16:
        notes.append("this CPU has no bfloat16 arithmetic: training runs in float32")
    if os.environ.get("HF_ENDPOINT"):
        notes.append(f"HF_ENDPOINT is {os.environ['HF_ENDPOINT']}")
    return notes
