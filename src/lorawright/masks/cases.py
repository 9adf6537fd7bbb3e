"""A model's tokenizer and template → how chats of each kind are trained by it, or why not.

    one turn   system message   three turns   a call   two calls   a later call   reasoning   …

What `doctor --model` shows, and the table of families in the docs.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorawright.config.schema import DataSettings
from lorawright.masks.encode import Encoder
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.types import (
    REASONING,
    Conversation,
    EncodedChat,
    Message,
    Problem,
    Role,
    Severity,
    ToolCall,
)


def _user(text: str) -> Message:
    return Message(Role.USER, text)


def _answer(text: str | None, *calls: ToolCall, thought: str | None = None) -> Message:
    extra = {} if thought is None else {REASONING: thought}
    return Message(Role.ASSISTANT, text, calls, extra=extra)


def _call(city: str, number: int) -> ToolCall:
    return ToolCall("weather", {"city": city}, f"call0000{number}")


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Where."}},
                "required": ["city"],
            },
        },
    },
)
SUN, RAIN = Message(Role.TOOL, "Sun."), Message(Role.TOOL, "Rain.")
ASKED = _user("Weather?")
THREE = (_user("Hi"), _answer("Hello."), _user("And 2 + 2?"), _answer("4."), _user("再见"))
CASES: dict[str, tuple[tuple[Message, ...], bool]] = {
    "one turn": ((_user("Hi"), _answer("Hello there.")), False),
    "system message": (
        (Message(Role.SYSTEM, "Be brief."), _user("Hi"), _answer("Hello.")),
        False,
    ),
    "three turns": ((*THREE, _answer("再见！")), False),
    "white space": (
        (_user("Hi"), _answer("\n\nHello.\n"), _user("And 2 + 2?"), _answer(" 4. ")),
        False,
    ),
    "a call": ((ASKED, _answer(None, _call("Rome", 1)), SUN, _answer("Sunny.")), True),
    "two calls": (
        (ASKED, _answer(None, _call("Rome", 1), _call("Oslo", 2)), SUN, RAIN, _answer("Mixed.")),
        True,
    ),
    "a later call": (
        (_user("Hi"), _answer("Hello."), ASKED, _answer(None, _call("Rome", 1)), SUN,
         _answer("Sunny."), _user("Thanks"), _answer("Gladly.")),
        True,
    ),
    "reasoning": (
        (_user("Hi"), _answer("Hello.", thought="A greeting."), _user("And 2 + 2?"),
         _answer("4.", thought="Twice two.")),
        False,
    ),
    "<think> in content": (
        (_user("Hi"), _answer("<think>\nA greeting.\n</think>\n\nHello."), _user("And 2 + 2?"),
         _answer("<think>\nTwice two.\n</think>\n\n4.")),
        False,
    ),
    "reasoning, a call": (
        (ASKED, _answer(None, _call("Rome", 1), thought="I ask."), SUN,
         _answer("Sunny.", thought="I see.")),
        True,
    ),
}  # fmt: skip
"""Name → messages, and whether the row has tools."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What becomes of one chat.

    Attributes:
        name: Of the case.
        num_sequences: That the chat is trained as; 0 where it is refused.
        problem: Why it is refused, and where.
    """

    name: str
    num_sequences: int
    problem: Problem | None = None

    @property
    def is_trained(self) -> bool:
        return self.num_sequences > 0


def check(tokenizer: ChatTokenizer) -> list[CaseResult]:
    """Encodes a chat of each kind.

    Raises:
        TemplateError: The template cannot be trained on at all.
    """
    encoder = Encoder(tokenizer, DataSettings())
    return [_check(encoder, name, *CASES[name]) for name in CASES]


def _check(
    encoder: Encoder, name: str, messages: tuple[Message, ...], has_tools: bool
) -> CaseResult:
    row = Conversation(messages, TOOLS if has_tools else None, name, 1)
    found = list(encoder.run([row]))
    problems = [
        item
        for item in found
        if isinstance(item, Problem) and item.severity is not Severity.WARNING
    ]
    num_sequences = sum(isinstance(item, EncodedChat) for item in found)
    return CaseResult(name, num_sequences, problems[0] if problems else None)
