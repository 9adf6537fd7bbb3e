"""What is thought before an answer: one thing, however a row spells it.

{"reasoning_content": "2 and 2", "content": "4"}        also `reasoning`, `thinking`
{"content": "<think>\n2 and 2\n</think>\n\n4"}          the same, where the template knows it
"""

from __future__ import annotations

import re
from dataclasses import replace

from lorawright.masks.special_tokens import START
from lorawright.types import REASONING, Conversation, Message, Role

KEYS = (REASONING, "reasoning", "thinking")
INLINE = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
MARKED = re.compile(rf"{START}(</?think>).")  # `<think>` as a control token, marked as text
CLOSING = re.compile(r"\s*(?:</\w+>|\[/\w+\])\s*")


def of(message: Message) -> str:
    """The reasoning of a message; empty where there is none."""
    for key in KEYS if message.extra else ():
        if isinstance(message.extra.get(key), str):
            return str(message.extra[key])
    content = message.content or ""
    found = INLINE.match(content) if "</think>" in content else None
    return found[1] if found else ""


def separate(chat: Conversation) -> Conversation:
    """The chat with `<think>…</think>` of answers as `reasoning_content`.

    For templates that render that key: they put the reasoning where the model writes it.
    """
    if not any("</think>" in (message.content or "") for message in chat.messages):
        return chat
    return replace(chat, messages=tuple(map(_separated, chat.messages)))


def _separated(message: Message) -> Message:
    content = message.content or ""
    if message.role is not Role.ASSISTANT or any(key in message.extra for key in KEYS):
        return message
    found = INLINE.match(MARKED.sub(r"\1", content) if START in content else content)
    if found is None or not found[1].strip():
        return message
    text = MARKED.sub(r"\1", content)[found.end() :] if START in content else content[found.end() :]
    extra = {**message.extra, REASONING: found[1].strip("\n")}
    return replace(message, content=text, extra=extra)


def num_read(target: str, message: Message) -> int | None:
    """Characters at the beginning of a target that are its reasoning, closed; None: not found.

    Args:
        target: What the template renders behind the prompt.
        message: The answer.
    """
    thought = of(message).strip()
    if not thought:
        return 0
    at = target.find(thought)
    if at < 0:
        return None
    end = at + len(thought)
    closing = CLOSING.match(target, end)
    end = closing.end() if closing else end
    content = INLINE.sub("", message.content or "", count=1).strip()
    if not content:
        return end
    begins = target.find(content, end)
    return begins if begins >= 0 else None
