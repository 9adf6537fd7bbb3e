"""An answer's text → the calls of tools in it, as Qwen2.5 and many others write them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

OPENING = "<tool_call>"
CALL = re.compile(rf"{OPENING}\s*(.*?)\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, read from an answer's text."""

    name: str
    arguments: dict[str, Any]


def read_calls(text: str) -> list[Call] | None:
    """The calls in an answer: [] for none, None if something that should be one is broken.

    Between <tool_call> tags, as Qwen2.5 writes them, or an answer that is one JSON call.
    """
    found = CALL.findall(text)
    if not found and text.count(OPENING):
        return None
    if not found:
        bare = _read_call(text) if text.startswith("{") else None
        return [bare] if bare is not None else []
    calls = [_read_call(body) for body in found]
    read = [call for call in calls if call is not None]
    return read if len(read) == len(calls) else None


def _read_call(text: str) -> Call | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    return Call(value["name"], arguments) if isinstance(arguments, dict) else None
