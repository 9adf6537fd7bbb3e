"""Content that is a list of parts → text, reasoning and tool calls.

Example:
    [{"type": "reasoning", "text": "2 and 2"}, {"type": "text", "text": "4"}]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorawright.data.problems import RowErrors, got, names, quote
from lorawright.data.tool_calls import calls_from_text
from lorawright.types import Role, ToolCall

TEXT, REASONING, TOOL_CALL = "text", "reasoning", "tool_call"
TEXT_KEYS = ("text", "value")  # OpenAI's and LLaMA-Factory's
A_PART = 'a part is {"type": "text", "text": "..."}'


@dataclass(frozen=True, slots=True)
class Parts:
    """What the parts of one message say; `text` is None where there are calls and no text."""

    text: str | None
    reasoning: str
    calls: tuple[ToolCall, ...]


def parse_parts(parts: list[Any], path: str, role: Role | None, errors: RowErrors) -> Parts:
    """Joins texts, and reasoning; reads calls. Faults go to `errors`."""
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    for index, part in enumerate(parts):
        here = f"{path}[{index}]"
        if not isinstance(part, dict):
            errors.find(here, f"{got(part)}, expected a text part", A_PART)
            continue
        kind = part.get("type")
        if kind in (REASONING, TOOL_CALL) and role not in (Role.ASSISTANT, None):
            hint = "only the assistant reasons and calls tools"
            errors.find(f"{here}.type", f"is `{kind}` in a {role} message", hint)
        elif kind == TEXT:
            texts.append(_text(part, here, errors))
        elif kind == REASONING:
            reasoning.append(_text(part, here, errors))
        elif kind == TOOL_CALL:
            key = next((key for key in (TOOL_CALL, *TEXT_KEYS) if key in part), "value")
            calls += calls_from_text(part.get(key), f"{here}.{key}", errors)
        else:
            what = f"is {quote(kind)}" if isinstance(kind, str) and kind else got(kind)
            errors.find(f"{here}.type", f"{what}, expected `text`", "only text can be trained")
    text = None if calls and not texts else "".join(texts)
    return Parts(text, "".join(reasoning), tuple(calls))


def _text(part: dict[str, Any], path: str, errors: RowErrors) -> str:
    for key in TEXT_KEYS:
        value = part.get(key)
        if isinstance(value, str):
            return value
        if value is not None:
            errors.find(f"{path}.{key}", f"{got(value)}, expected text", A_PART)
            return ""
    what = got(None) if "text" in part else f"is missing, the part has {names(part)}"
    errors.find(f"{path}.text", f"{what}, expected text", A_PART)
    return ""
