"""Chats, files and tools that several tests use."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import orjson

from lorawright.run.events import Event, StepFinished, Tell

QUESTIONS = ["Who are you?", "What is 2 plus 3?", "你好！", "Name a colour.", "Count to five."]


def rows(num_rows: int) -> list[dict[str, Any]]:
    """Chats of several lengths, one and two turns, none equal to another."""
    made = []
    for number in range(num_rows):
        question = QUESTIONS[number % len(QUESTIONS)]
        answer = f"I am number {number}. " + "Fine weather, is it not? " * (number % 4)
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer.strip()},
        ]
        if number % 3 == 0:
            messages += [
                {"role": "user", "content": "And then?"},
                {"role": "assistant", "content": f"Then comes {number + 1}."},
            ]
        made.append({"messages": messages})
    return made


def write_jsonl(path: Path, values: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(value) + b"\n" for value in values))
    return path


def evaluation_file(base: dict[str, Any], tuned: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What `evaluate` writes, with figures that are not given left out."""
    names = ["perplexity", "token_accuracy", "exact_match", "chrf", "rouge_l", "stop", "tool_calls"]
    none = dict.fromkeys(names)
    return {
        "data": {"name": "eval.jsonl", "num_chats": 4, "num_trained_tokens": 40},
        "base": {**none, **base},
        "tuned": {**none, **tuned},
        "stop": {"base": None, "tuned": tuned.get("stop")},
        "by_length": {},
        "by_role": {},
        "samples": [],
        **more,
    }


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CITIES = ["Rome", "Oslo", "Lima", "Cairo", "北京"]


def tool_rows(num_rows: int) -> list[dict[str, Any]]:
    """Chats that call a tool and answer by its result."""
    made = []
    for number in range(num_rows):
        city, days = CITIES[number % len(CITIES)], number % 3 + 1
        call = {"name": "get_weather", "arguments": {"city": city, "days": days}}
        messages = [
            {"role": "system", "content": f"Answer in {number + 3} words."},
            {"role": "user", "content": f"Weather in {city} for {days} days?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
            {"role": "tool", "content": f"sunny, {number} degrees"},
            {"role": "assistant", "content": f"It is sunny in {city}, {number} degrees."},
        ]
        made.append({"messages": messages, "tools": [WEATHER]})
    return made


def signal_after(step: int, number: signal.Signals) -> Tell:
    """Takes a run's events, and sends itself a signal when a step is done."""

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished) and event.number == step:
            os.kill(os.getpid(), number)

    return tell
