"""Chats, files and tools that several tests use."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

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


CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def sentencepiece(kind: str, more: Sequence[str] = ()) -> Tokenizer:
    """A small vocabulary of Llama 2's kind: a space is `▁`, and one is put before texts."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    texts = [
        "▁Every▁day▁is▁good.▁Hello!▁Two?",
        "▁user▁assistant▁system",
        "每天都好。你好",
        "abcxyzH",
        *more,
    ]
    special = [AddedToken(token, special=True, normalized=False) for token in CONTROL]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", *special, "<0x0A>"])
    backend.train_from_iterator(texts * 20, trainer)
    written = orjson.loads(backend.to_str())
    written["model"]["byte_fallback"] = True
    written["added_tokens"].pop()
    backend = Tokenizer.from_str(orjson.dumps(written).decode())
    if kind == "prepend":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(steps)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return backend
