"""Control tokens that stand in the text of a chat: found, and on request encoded as plain text.

`<|im_end|>` inside a user's message would end the turn for the model. Escaping wraps each such
string in two private-use characters before rendering; the encoder then sees

    ...please type ⟦<|im_end|>⟧ now...   →   "...please type " | "<|im_end|>" as text | " now..."

which is what Transformers does with `sanitize_control_tokens=True`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lorawright.types import Conversation, Message

START, END = "\U000f0000", "\U000f0001"
ESCAPED_START = "\\udb80\\udc00"  # as JSON in ASCII spells it: no marker any more


def pattern(control_tokens: Sequence[str]) -> re.Pattern[str]:
    """Matches any control token, longest first, or one of our own two markers."""
    longest_first = sorted(control_tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, [*longest_first, START, END])))


def find(conversation: Conversation, tokens: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yields (path, token) of every string value that spells a control token."""
    for index, message in enumerate(conversation.messages):
        here = f"messages[{index}]"
        if message.content is not None:
            yield from _find(message.content, f"{here}.content", tokens)
        for number, call in enumerate(message.tool_calls):
            path = f"{here}.tool_calls[{number}]"
            yield from _find(call.id, f"{path}.id", tokens)
            yield from _find(call.name, f"{path}.name", tokens)
            yield from _find(call.arguments, f"{path}.arguments", tokens)
        if message.extra:
            yield from _find(message.extra, here, tokens)
    if conversation.tools is not None:
        yield from _find(list(conversation.tools), "tools", tokens)


def _find(value: Any, path: str, tokens: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        match = tokens.search(value)
        if match:
            yield path, match.group()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _find(key, f"{path}.{key}", tokens)
            yield from _find(item, f"{path}.{key}", tokens)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, f"{path}[{index}]", tokens)


def mark(conversation: Conversation, tokens: re.Pattern[str]) -> Conversation:
    """The chat with every forged token wrapped in the two markers."""

    def wrap(text: str) -> str:
        return tokens.sub(lambda match: f"{START}{match.group()}{END}", text)

    return replace(
        conversation,
        messages=tuple(_mark_message(message, wrap) for message in conversation.messages),
        tools=None
        if conversation.tools is None
        else tuple(_map_strings(tool, wrap) for tool in conversation.tools),
    )


def _mark_message(message: Message, wrap: Callable[[str], str]) -> Message:
    return replace(
        message,
        content=None if message.content is None else wrap(message.content),
        tool_calls=tuple(
            replace(
                call,
                name=wrap(call.name),
                arguments=_map_strings(call.arguments, wrap),
                id=call.id and wrap(call.id),
            )
            for call in message.tool_calls
        ),
        extra=_map_strings(message.extra, wrap),
    )


def _map_strings(value: Any, wrap: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return wrap(value)
    if isinstance(value, Mapping):
        return {wrap(key): _map_strings(item, wrap) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, wrap) for item in value]
    return value


def split(text: str) -> list[tuple[str, bool]]:
    """Rendered text → (piece, encode it as plain text) in order."""
    if START not in text:
        return [(text, False)]
    parts = re.split(f"{START}({START}|{END}|[^{START}{END}]+){END}", text)
    return [(part, number % 2 == 1) for number, part in enumerate(parts) if part]


def unmark(text: str) -> str:
    """Rendered text as its author wrote it."""
    return "".join(piece for piece, _ in split(text))
