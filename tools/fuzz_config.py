"""Made-up configs, for `tools/fuzz.py` and the suite: up to six keys, odd values, damaged text."""

from __future__ import annotations

import json
import random
from pathlib import Path

from fuzz_case import Case

from lorawright.config import Config

KEYS = [
    *(f"{section}:{key}" for section, keys in Config().model_dump().items() for key in keys),
    "training:epohcs",
    "model:1",
    "data:~",
    "lora:yes",
    "training:lora_r",
    "x:y",
    "data:hub_token",
]
VALUES = [
    "1", "-1", "0", "1e9", "1e400", "-.inf", ".nan", "010", "1:30", "0x1F", "1_0", "yes", "~", "''",
    "'a b'", "[1, [2, [3]]]", "{a: {b: 1}}", "[]", "{}", "'(('", "[a, '']", "a/b", "../x", "~/x",
    "hf://a/b", "*.jsonl", "a,b", "2024-01-01", "!!set {a}", "!x y", "&a [*a]", "*nope", "|\n  a",
    "'\\x00'", '"\\0"', '"\\ud800"', "'你好'", "é" * 300, "9" * 400, "- a", ": :", "@x", "`x`",
    "true", "'true'", "null", "[[[[]]]]", "{1: 2}", "{? [a] : b}", "<<: {a: 1}", "\t1", "auto",
    "{adam_beta1: x}",
    "{lr_scheduler_kwargs: {a: [1]}}", "{lr_scheduler_kwargs: {num_cycles: {}}}",
    "{optim_args: '=,=,'}", "[tensorboard, x, 1]", "hf_" + "a1" * 20,
]  # fmt: skip


def made(rng: random.Random) -> tuple[str, list[str]]:
    """A config of up to six keys, damaged now and then, and up to two `--set`."""
    sections: dict[str, list[str]] = {}
    for _ in range(rng.randint(0, 6)):
        section, _, key = rng.choice(KEYS).partition(":")
        sections.setdefault(section, []).append(f"  {key}: {rng.choice(VALUES)}")
    text = "\n".join(f"{name}:\n" + "\n".join(lines) for name, lines in sections.items())
    if rng.random() < 0.3 and text:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice("{}[]:&*!|>'\"%@`\t\0#-,?\n") + text[place:]
    overrides = [
        f"{rng.choice(KEYS).replace(':', '.')}={rng.choice(VALUES)}"
        for _ in range(rng.choice([0, 0, 1, 2]))
    ]
    return text, overrides


VERBS = (["check"], ["plan"], ["train", "--dry-run"], ["inspect"])


def make(folder: Path, rng: random.Random) -> Case:
    """A config, mostly without its data, and a verb that reads it."""
    text, overrides = made(rng)
    if rng.random() < 0.5:
        row = {"messages": [{"role": r, "content": "Hi"} for r in ("user", "assistant")]}
        (folder / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
        overrides += ["model.name=tiny", "data.train=a.jsonl"]
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    (verb, *options) = rng.choice(VERBS)
    given = [part for override in overrides for part in ("--set", override)]
    return Case([verb, "c.yaml", *options, *given, "--json"], is_json=False)
