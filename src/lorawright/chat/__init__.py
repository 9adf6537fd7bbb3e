"""Conversation → ids and trained spans, by the tokenizer's own template, each mask proven twice."""

from lorawright.chat.encode import Encoder, Tally
from lorawright.chat.marks import TurnMarks, learn
from lorawright.chat.tagged import tagged
from lorawright.chat.tokenizer import ChatTokenizer, load

__all__ = ["ChatTokenizer", "Encoder", "Tally", "TurnMarks", "learn", "load", "tagged"]
