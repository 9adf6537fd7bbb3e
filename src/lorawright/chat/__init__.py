"""Conversation → ids and trained spans, by the tokenizer's own template, each mask proven twice."""

from lorawright.chat.compare import refuse_other_text
from lorawright.chat.derive import Refusal, trained_turns, turns
from lorawright.chat.encode import Encoder, Tally
from lorawright.chat.files import add_stop
from lorawright.chat.marks import TurnMarks, learn
from lorawright.chat.plain import plain, remove_tags
from lorawright.chat.tagged import tagged
from lorawright.chat.tokenizer import ChatTokenizer, load

__all__ = [
    "ChatTokenizer",
    "Encoder",
    "Refusal",
    "Tally",
    "TurnMarks",
    "add_stop",
    "learn",
    "load",
    "plain",
    "refuse_other_text",
    "remove_tags",
    "tagged",
    "trained_turns",
    "turns",
]
