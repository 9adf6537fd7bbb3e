"""Conversation → ids and trained spans, by the tokenizer's own template, each mask proven twice."""

from lorawright.masks.compare import refuse_other_text
from lorawright.masks.derive import UnprovenMask, trained_turns, turns
from lorawright.masks.encode import Encoder, MaskCounts
from lorawright.masks.generation_tags import plain, remove_tags, tagged
from lorawright.masks.template_files import add_stop
from lorawright.masks.tokenizer import ChatTokenizer, load
from lorawright.masks.turn_markers import TurnMarkers, learn

__all__ = [
    "ChatTokenizer",
    "Encoder",
    "MaskCounts",
    "TurnMarkers",
    "UnprovenMask",
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
