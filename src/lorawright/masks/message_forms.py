"""The same chat in the forms that templates want answers with tool calls in.

    content      absent | null | ""        DeepSeek asks whether it is null, others add it to text
    arguments    an object | JSON text     DeepSeek adds them to text

The first form that a template renders without losing anything is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lorawright.types import Conversation, Message

Change = Callable[[Message], Message]


def forms(chat: Conversation) -> Iterator[Conversation]:
    """The chat as it is, then in other forms where there is anything to change."""
    yield chat
    if not any(message.tool_calls for message in chat.messages):
        return
    is_silent = any(message.content is None for message in chat.messages)
    contents: tuple[Change, ...] = (_null, _empty) if is_silent else ()
    for content in contents:
        yield _changed(chat, content)
    texts = _changed(chat, _arguments_as_text)
    yield texts
    for content in contents:
        yield _changed(texts, content)


def _changed(chat: Conversation, change: Change) -> Conversation:
    return replace(chat, messages=tuple(map(change, chat.messages)))


def _null(message: Message) -> Message:
    if message.content is not None:
        return message
    return replace(message, extra={**message.extra, "content": None})


def _empty(message: Message) -> Message:
    return replace(message, content=message.content or "")


def _arguments_as_text(message: Message) -> Message:
    calls = tuple(replace(call, as_text=True) for call in message.tool_calls)
    return replace(message, tool_calls=calls)
