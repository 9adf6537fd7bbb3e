"""`lorawright doctor`: versions, hardware, and what would be chosen here."""

from __future__ import annotations

from lorawright.cli.options import Json
from lorawright.i18n.catalogue import translate

LABEL_WIDTH = 14


def doctor(json: Json = False) -> None:
    """Show versions, hardware and what `auto` means here."""
    from lorawright.cli import console
    from lorawright.cli import doctor_facts as stage
    from lorawright.distributed.signals import quiet

    quiet()
    facts = stage.examine()
    if json:
        console.print_json(facts)
        return
    out = console.out()
    for name, value in facts["packages"].items():
        out.print(f"{name:<{LABEL_WIDTH}} {value or 'not installed'}")
    hardware = facts["hardware"]
    out.print(
        f"\ndevice         {hardware['device']}: {hardware['name']}, "
        f"{hardware['memory_bytes'] / 1e9:.1f} GB free, {hardware['num_threads']} threads"
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
