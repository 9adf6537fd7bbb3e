"""What a row says and its rendered chat does not: templates drop what they do not know.

    {"role": "assistant", "tool_calls": [...]}   →   "<|assistant|><|end|>"   the call is gone

A trained answer has to stand in its own trained stretch with all it says, everything else anywhere
in the rendered chat. Templates trim, escape and reorder, so what is not found as written is looked
for without white space, quotes and escapes.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorawright.masks import reasoning
from lorawright.types import Conversation, Message, Role, ToolCall

THINK = re.compile(r"</?think>")
ESCAPES = re.compile(r"""\\+[nrtbf]?|["'\s]""")
CODES = re.compile(r"(?:\\+u[0-9a-fA-F]{4})+")


@dataclass(frozen=True, slots=True)
class Missing:
    """Something of a row that is not in the rendered chat.

    Attributes:
        path: Where it stands in the row.
        hint: What to do.
    """

    path: str
    hint: str


@dataclass(slots=True)
class Found:
    """What is missing, and keys of messages that this template does not render, and does."""

    missing: list[Missing] = field(default_factory=list)
    idle_keys: list[str] = field(default_factory=list)
    rendered_keys: list[str] = field(default_factory=list)


def find(chat: Conversation, text: str, answers: Mapping[int, str]) -> Found:
    """Compares a chat with its text.

    Args:
        chat: The row.
        text: The rendered chat.
        answers: The trained messages by their numbers: what the template renders for each.
    """
    found = Found()
    whole = _Stretch(text)
    for index, message in enumerate(chat.messages):
        target = answers.get(index)
        content = message.content
        if target is not None:
            if content is None or not target.startswith(content):
                own = _Stretch(target)
                if not own.says(content or ""):
                    found.missing.append(Missing(f"messages[{index}].content", CONTENT_HINT))
            else:
                own = None
        elif content and not whole.goes_on_with(content) and not _is_said(whole, message):
            found.missing.append(Missing(f"messages[{index}].content", CONTENT_HINT))
        if message.tool_calls or message.extra:
            where = whole if target is None else own or _Stretch(target)
            _find_further(found, index, message, where, is_trained=target is not None)
    if chat.tools:
        found.missing += _missing_tools(chat.tools, whole)
    return found


def _is_said(whole: _Stretch, message: Message) -> bool:
    """An earlier answer's reasoning is no part of what inference is given."""
    content = message.content or ""
    if whole.says(content):
        return True
    said = content.rpartition("</think>")[2]
    return message.role is Role.ASSISTANT and said != content and whole.says(said)


def _find_further(
    found: Found, index: int, message: Message, where: _Stretch, *, is_trained: bool
) -> None:
    missing = _missing_call(message.tool_calls, where)
    if missing is not None:
        found.missing.append(Missing(f"messages[{index}].{missing}", CALL_HINT))
    for key, value in message.extra.items():
        if where.holds(value):
            found.rendered_keys.append(key)
        elif is_trained and key in reasoning.KEYS:
            found.missing.append(Missing(f"messages[{index}].{key}", REASONING_HINT))
        else:
            found.idle_keys.append(key)


def _missing_call(calls: tuple[ToolCall, ...], where: _Stretch) -> str | None:
    names: list[str] = []
    for number, call in enumerate(calls):
        path = f"tool_calls[{number}]"
        names.append(call.name)
        if not where.says(call.name, at_least=names.count(call.name)):
            return f"{path}.function.name"
        for key, value in call.arguments.items():
            if not (where.says(key) and where.holds(value)):
                return f"{path}.function.arguments.{key}"
    return None


def _missing_tools(tools: tuple[Mapping[str, Any], ...], whole: _Stretch) -> list[Missing]:
    for number, tool in enumerate(tools):
        function = tool.get("function")
        described, inner = (function, ".function") if isinstance(function, Mapping) else (tool, "")
        for key in ("name", "description"):
            value = described.get(key)
            if isinstance(value, str) and not whole.says(value):
                return [Missing(f"tools[{number}]{inner}.{key}", TOOLS_HINT)]
    return []


class _Stretch:
    """A stretch of rendered text, asked for what it says."""

    __slots__ = ("_plain", "_position", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._plain: str | None = None
        self._position = 0

    def goes_on_with(self, content: str) -> bool:
        """Whether it says this behind what was asked for before; nearly always so."""
        at = self.text.find(content, self._position)
        if at >= 0:
            self._position = at + len(content)
        return at >= 0

    def says(self, value: str, *, at_least: int = 1) -> bool:
        """Whether it says a text, as written or as a template may write it."""
        if at_least == 1:
            if value.strip() in self.text:
                return True
            if json.dumps(value, ensure_ascii=False)[1:-1] in self.text:
                return True
        elif self.text.count(value) >= at_least:
            return True
        if self._plain is None:
            self._plain = _plain(self.text)
        if self._plain.count(_plain(value)) >= at_least:
            return True
        return at_least == 1 and self._says_parts(self._plain, value)

    @staticmethod
    def _says_parts(plain: str, value: str) -> bool:
        """Templates put reasoning elsewhere, and a prefix before each line of a description."""
        parts = [line for part in THINK.split(value) for line in part.splitlines()]
        return len(parts) > 1 and all(_plain(part) in plain for part in parts)

    def holds(self, value: Any) -> bool:
        """Whether it says all texts and numbers of a JSON value; null may be anything."""
        if isinstance(value, str):
            return self.says(value)
        if isinstance(value, bool):
            return self.says(str(value).lower())
        if isinstance(value, int | float):
            return any(self.says(form) for form in {str(value), f"{value:g}", json.dumps(value)})
        if isinstance(value, Mapping):
            return all(self.says(str(key)) and self.holds(item) for key, item in value.items())
        if isinstance(value, list | tuple):
            return all(map(self.holds, value))
        return True


def _plain(text: str) -> str:
    """A text without what templates change: white space, quotes, escapes, case."""
    if "\\" in text:
        text = CODES.sub(_decoded, text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return ESCAPES.sub("", text).casefold()


def _decoded(codes: re.Match[str]) -> str:
    halves = re.findall(r"[0-9a-fA-F]{4}", codes.group().replace("u", " "))
    units = b"".join(int(half, 16).to_bytes(2, "little") for half in halves)
    return units.decode("utf-16-le", errors="replace")


REASONING_HINT = (
    "remove it from the row, fold it into `content`, or train a model whose template renders "
    "reasoning; `data.swallowed: warn` trains without it"
)
CALL_HINT = (
    "write the call into `content`, or train a model whose template renders tool calls; "
    "`data.swallowed: warn` trains without it"
)
TOOLS_HINT = (
    "describe the tools in a system message, or train a model whose template renders tools; "
    "`data.swallowed: warn` trains without them"
)
CONTENT_HINT = (
    "say it in a message that the template renders; `data.swallowed: warn` trains without it"
)
