"""`lorawright init DIR`: a config and a data skeleton that pass `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from lorawright.cli.recipes import find_recipe
from lorawright.errors import RunFolderError
from lorawright.i18n.catalogue import translate, translate_comments

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "data/train/chats.jsonl": [
        {
            "messages": [
                {"role": "system", "content": "You are the assistant of Example Books."},
                {"role": "user", "content": "When are you open?"},
                {"role": "assistant", "content": "Every day from nine to six."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "你们几点开门？"},
                {"role": "assistant", "content": "每天九点到十八点。"},
                {"role": "user", "content": "周日呢？"},
                {"role": "assistant", "content": "周日也一样。"},
            ]
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "find_book",
                        "description": "Find a book by its title",
                        "parameters": {
                            "type": "object",
                            "properties": {"title": {"type": "string"}},
                            "required": ["title"],
                        },
                    },
                }
            ],
            "messages": [
                {"role": "user", "content": "Do you have Moby-Dick?"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "type": "function",
                            "function": {"name": "find_book", "arguments": {"title": "Moby-Dick"}},
                        }
                    ],
                },
                {"role": "tool", "content": '{"copies": 2}'},
                {"role": "assistant", "content": "Yes, two copies are in the shop."},
            ],
        },
    ],
    "data/eval/chats.jsonl": [
        {
            "messages": [
                {"role": "user", "content": "Are you open on Sundays?"},
                {"role": "assistant", "content": "Yes, from nine to six."},
            ]
        }
    ],
}


def init(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    model: Annotated[
        str, typer.Option(help="A hub id, a folder, or `tiny`.")
    ] = "Qwen/Qwen2.5-0.5B-Instruct",
) -> None:
    """Write a config and example chats to start from."""
    from lorawright.cli import console

    for path in write_project(folder, model):
        console.out().print(str(path))
    console.note(f"next: lorawright check {folder}/config.yaml")


def write_project(folder: str, model: str) -> list[Path]:
    """config.yaml and example chats; raises RunFolderError rather than overwrite anything."""
    root = Path(folder)
    config = _project_config(model)
    contents = {"config.yaml": config.encode()} | {
        name: b"".join(orjson.dumps(row) + b"\n" for row in rows) for name, rows in EXAMPLES.items()
    }
    taken = [name for name in contents if (root / name).exists()]
    if taken:
        raise RunFolderError(
            "is there already", where=str(root / taken[0]), hint="choose another folder"
        )
    written: list[Path] = []
    try:
        for name, content in contents.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(path)
    except OSError as error:
        raise RunFolderError(
            f"cannot be written: {error.strerror}", where=folder, hint="choose another folder"
        ) from None
    return written


def _project_config(model: str) -> str:
    """The smallest recipe with the project's own model and paths."""
    text = find_recipe("qwen2.5-0.5b-lora")
    lines = text.split("\n")
    start = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    body = "\n".join(lines[start:]).replace("Qwen/Qwen2.5-0.5B-Instruct", model, 1)
    body = body.replace("output: runs/qwen2.5-0.5b", "output: runs/first")
    header = (
        f"# {translate('Your run. Put your chats into data/train and data/eval, then:')}\n"
        "#   lorawright check config.yaml\n"
        "#   lorawright inspect config.yaml\n"
        "#   lorawright train config.yaml\n"
    )
    return header + translate_comments(body)
