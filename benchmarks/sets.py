"""The chats a benchmark trains on, made from files that the user names.

short      chats as they are
long       chats put one after the other into one conversation, until it is long
tools      tool-calling chats, each with its own tools
one-tools  the same chats, all given the tools of the first ones
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorawright.config.schema import DataSettings
from lorawright.data import Reader
from lorawright.types import Conversation

Row = dict[str, Any]

LONG_CHARACTERS = 9000  # about 2,500 tokens of English and Chinese mixed
NUM_SHARED_TOOLS = 8
NAMES = ("short", "long", "tools", "one-tools")


def rows(name: str, file: str, num_chats: int) -> list[Row]:
    """The first chats of a set, as messages and tools."""
    made = {"short": _as_they_are, "long": _joined, "tools": _with_tools, "one-tools": _one_set}
    found: list[Row] = []
    for row in made[name](file):
        found.append(row)
        if len(found) == num_chats:
            return found
    raise SystemExit(f"{file} has only {len(found)} chats for the set {name!r}")


def _read(file: str) -> Iterator[Conversation]:
    settings = DataSettings(train=file, invalid="drop", duplicates="keep")
    return (item for item in Reader(settings) if isinstance(item, Conversation))


def _row(chat: Conversation) -> Row:
    return {"messages": [m.for_template() for m in chat.messages], "tools": chat.tools}


def _as_they_are(file: str) -> Iterator[Row]:
    return map(_row, _read(file))


def _joined(file: str) -> Iterator[Row]:
    messages: list[Row] = []
    for chat in _read(file):
        messages += [m for m in _row(chat)["messages"] if m["role"] != "system"]
        if sum(len(m["content"]) for m in messages) >= LONG_CHARACTERS:
            yield {"messages": messages, "tools": None}
            messages = []


def _with_tools(file: str) -> Iterator[Row]:
    return (row for row in map(_row, _read(file)) if row["tools"])


def _one_set(file: str) -> Iterator[Row]:
    tools: dict[str, Any] = {}
    for row in _with_tools(file):
        for tool in row["tools"]:
            if len(tools) < NUM_SHARED_TOOLS:
                tools.setdefault(tool.get("function", tool)["name"], tool)
        if len(tools) == NUM_SHARED_TOOLS:
            break
    return ({**row, "tools": list(tools.values())} for row in _with_tools(file))
