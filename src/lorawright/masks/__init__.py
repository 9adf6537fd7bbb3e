"""Conversation → ids and trained spans, by the tokenizer's own template, each mask proven twice."""

from lorawright.masks.compare import refuse_other_text
from lorawright.masks.derive import Refusal, trained_turns, turns
from lorawright.masks.encode import Encoder, Tally
from lorawright.masks.generation_tags import tagged
from lorawright.masks.plain_template import plain, remove_tags
from lorawright.masks.template_files import add_stop
from lorawright.masks.tokenizer import ChatTokenizer, load
from lorawright.masks.turn_markers import TurnMarks, learn

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
