"""Write config.md, cli.md and files.md of docs/reference from the code.

python tools/build_reference.py           writes all
python tools/build_reference.py --check   writes nothing; exits 1 if a file differs
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import typer
import yaml
from pydantic.fields import FieldInfo

from lorawright.cli.app import app
from lorawright.config.schema import Config, Section

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lorawright"
FOLDER = ROOT / "docs" / "reference"
WIDTH = 100
NOTICE = "<!-- Made by tools/build_reference.py; change the code, not this file. -->"
KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "`true`, `false`",
    dict: "mapping",
    type(None): "`null`",
}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def config_page() -> str:
    """Every section and key of the config tree."""
    lines = [
        "# Config reference",
        "",
        NOTICE,
        "",
        "One YAML file holds one run. Every key may be left out. Unknown keys are refused.",
        "`--set SECTION.KEY=VALUE` sets one key on the command line.",
        "Relative paths in the file start at its own folder.",
    ]
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, Section)
        lines += ["", f"## {name}", "", *_paragraph(section), ""]
        lines += ["| key | takes | default | meaning |", "|---|---|---|---|"]
        lines += [_row(key, value) for key, value in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _paragraph(section: type[Section]) -> list[str]:
    assert section.__doc__
    return [line.strip() for line in section.__doc__.strip().splitlines()]


def _row(key: str, field: FieldInfo) -> str:
    takes = ", ".join(dict.fromkeys(_takes(field.annotation)))
    bounds = _bounds(field)
    takes += f" ({bounds})" if bounds else ""
    cells = (f"`{key}`", takes, _default(field), _meaning(field))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _takes(annotation: Any) -> Iterator[str]:
    """What a field takes, in words."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from (f"`{member.value}`" for member in annotation)
        return
    base = get_origin(annotation) or annotation
    if base is Literal:
        yield from (f"`{choice}`" for choice in get_args(annotation))
    elif base is list:
        yield f"list of {', '.join(_takes(get_args(annotation)[0]))}"
    elif base in KINDS:
        yield KINDS[base]
    else:
        for argument in get_args(annotation):
            if isinstance(argument, type) or get_origin(argument) is not None:
                yield from _takes(argument)


def _bounds(field: FieldInfo) -> str:
    """The limits of a number, wherever pydantic keeps them."""
    found: dict[str, Any] = {}
    for item in _metadata(field):
        for name, sign in BOUNDS.items():
            limit = getattr(item, name, None)
            if limit is not None:
                found[sign] = limit
    return ", ".join(f"{sign} {limit}" for sign, limit in found.items())


def _metadata(value: Any) -> Iterator[Any]:
    """Constraints of a field and of the alternatives in its annotation."""
    if isinstance(value, FieldInfo):
        yield from value.metadata
        yield from _metadata(value.annotation)
        return
    for argument in get_args(value):
        yield from argument.metadata if isinstance(argument, FieldInfo) else _metadata(argument)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, StrEnum):
        value = value.value
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return "`" + text.removesuffix("...\n").strip() + "`"


def _meaning(field: FieldInfo) -> str:
    assert field.description
    return field.description + "."


def cli_page() -> str:
    """The help of the program and of every verb, as the terminal shows it."""
    group = typer.main.get_command(app)
    lines = ["# Command line reference", "", NOTICE, "", *_help(group, None)]
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    for name, command in group.commands.items():
        lines += ["", f"## {name}", "", *_help(command, group)]
    return "\n".join(lines) + "\n"


def _help(command: Any, group: Any) -> list[str]:
    parent = None if group is None else _context(group, "lorawright", None)
    name = "lorawright" if group is None else command.name
    context = _context(command, name, parent)
    return ["```text", *(line.rstrip() for line in command.get_help(context).splitlines()), "```"]


def _context(command: Any, name: str, parent: Any) -> Any:
    return command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )  # fmt: skip


def files_page() -> str:
    """Every module with the first line of its docstring, room by room as the README lists them."""
    rooms = re.findall(r"^├── (\w+)/", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    lines = ["# Files", "", NOTICE, ""]
    lines += ["A file imports the modules beside the rooms, its own room, and rooms above its own."]
    for room in ("", *rooms):
        folder = PACKAGE / room
        title = f"{room}/" if room else "beside the rooms"
        lines += ["", f"## {title}", "", *([_about(folder / "__init__.py"), ""] if room else [])]
        lines += ["| file | what it is |", "|---|---|"]
        paths = sorted(path for path in folder.glob("*.py") if not room or path.stem != "__init__")
        lines += [f"| `{path.name}` | {_about(path)} |" for path in paths]
    return "\n".join(lines) + "\n"


def _about(path: Path) -> str:
    found = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert found, path
    return found.splitlines()[0].replace("|", "\\|")


def pages() -> dict[Path, str]:
    """Each file and what it should hold."""
    made = {"config.md": config_page(), "cli.md": cli_page(), "files.md": files_page()}
    return {FOLDER / file: text for file, text in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    stale = []
    for path, text in pages().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{'differs' if check else 'written'}: {path.relative_to(FOLDER.parents[1])}")
    if check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
