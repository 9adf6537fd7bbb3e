"""Whether Transformers renders chats as they are trained: what is handed on is its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import jinja2

from lorawright.errors import TemplateError
from lorawright.masks.texts import num_common
from lorawright.masks.tokenizer import PYTHON_ERRORS, ChatTokenizer
from lorawright.types import Message, Role, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
QUESTION = Message(Role.USER, "Weather in Rome?")
CALL = Message(Role.ASSISTANT, "", (ToolCall("get_weather", {"city": "Rome"}),))
CHATS: tuple[tuple[str, list[Message], list[dict[str, Any]] | None], ...] = (
    ("a chat", [QUESTION, Message(Role.ASSISTANT, "Sunny.")], None),
    (
        "a chat with a system message",
        [Message(Role.SYSTEM, "Be brief."), QUESTION, Message(Role.ASSISTANT, "Sunny.")],
        None,
    ),
    ("a chat with tools", [QUESTION, Message(Role.ASSISTANT, "Sunny.")], [TOOL]),
    ("a tool call", [QUESTION, CALL, Message(Role.TOOL, "sunny")], [TOOL]),
)


def refuse_other_text(reference: Any, tokenizer: ChatTokenizer) -> None:
    """Renders and reads a few chats by both, with and without tools, whole and as prompts.

    Transformers tells a template today's date, so both do here.

    Args:
        reference: Transformers' tokenizer.
        tokenizer: The one that the chats were encoded with.

    Raises:
        TemplateError: A chat is rendered otherwise, or read as other ids.
    """
    tokenizer = replace(tokenizer, date=date.today())
    for name, messages, tools in CHATS:
        for is_prompt in (False, True):
            ours = _ours(tokenizer, messages, tools, is_prompt)
            theirs = _theirs(reference, messages, tools, is_prompt, tokenizer.told)
            if ours != theirs:
                got, expected = _parting(ours, theirs)
                raise TemplateError(
                    f"Transformers renders {name} otherwise than it is trained here: {got} where "
                    f"{expected} is trained",
                    where=tokenizer.name,
                    hint=ANEW,
                )
            if ours is not None and _other_ids(reference, tokenizer, ours):
                raise TemplateError(
                    f"Transformers gives {name} other ids than it is trained with here",
                    where=tokenizer.name,
                    hint=ANEW,
                )


ANEW = "save the tokenizer anew: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`"


def _other_ids(reference: Any, tokenizer: ChatTokenizer, text: str) -> bool:
    """Its class may have rules of its own, beside those of tokenizer.json."""
    theirs = reference(text, add_special_tokens=False)["input_ids"]
    return bool(list(theirs) != tokenizer.encode([text])[0])


def _ours(
    tokenizer: ChatTokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    is_prompt: bool,
) -> str | None:
    try:
        return tokenizer.render(messages, tools, generation_prompt=is_prompt)
    except jinja2.TemplateError:
        return None


def _theirs(
    reference: Any,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    is_prompt: bool,
    told: Mapping[str, Any],
) -> str | None:
    try:
        text = reference.apply_chat_template(
            [message.for_template() for message in messages],
            tools=tools,
            tokenize=False,
            add_generation_prompt=is_prompt,
            **told,
        )
    # whatever a template's expression raises: it refuses the chat, as it did for us
    except (jinja2.TemplateError, *PYTHON_ERRORS):
        return None
    return str(text)


def _parting(ours: str | None, theirs: str | None) -> tuple[str, str]:
    """A little of both from where they part."""
    if ours is None or theirs is None:
        return ("nothing", "it") if theirs is None else ("it", "nothing")
    at = num_common(ours, theirs)
    return repr(theirs[at : at + 40]), repr(ours[at : at + 40])
