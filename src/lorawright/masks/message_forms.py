"""The same chat in the forms that templates want calls and tools in.

    content      absent | null | ""                     DeepSeek asks whether it is null
    arguments    an object | JSON text                  DeepSeek adds them to text
    tools        {"name": …} | {"function": {"name": …}}     gpt-oss knows the second alone

The first form that a template renders without losing anything is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lorawright.types import Conversation, Message

Change = Callable[[Message], Message]


def forms(chat: Conversation) -> Iterator[Conversation]:
    """The chat as it is, then in other forms where there is anything to change."""
    is_silent = any(message.content is None for message in chat.messages)
    contents: list[Change] = [_as_is, *((_null, _empty) if is_silent else ())]
    calls = any(message.tool_calls for message in chat.messages)
    arguments: list[Change] = [_as_is, *((_arguments_as_text,) if calls else ())]
    bare = any("function" not in tool for tool in chat.tools or ())
    for tools in (chat, _in_shells(chat)) if bare else (chat,):
        for argument in arguments:
            for content in contents:
                yield _changed(_changed(tools, argument), content)


def _as_is(message: Message) -> Message:
    return message


def _in_shells(chat: Conversation) -> Conversation:
    tools = chat.tools or ()
    return replace(
        chat,
        tools=tuple(
            tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
        ),
    )


def _changed(chat: Conversation, change: Change) -> Conversation:
    if change is _as_is:
        return chat
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
