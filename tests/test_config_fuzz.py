"""Odd configs: no exception but ConfigError, every problem with its address, an end in time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lorawright.config import Config, load_leniently
from lorawright.errors import ConfigError

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


@pytest.mark.parametrize("seed", range(10))
def test_odd_configs_are_problems(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "c.yaml"
    for _ in range(60):
        text, overrides = made(rng)
        path.write_text(text, encoding="utf-8")
        try:
            loaded = load_leniently(path, overrides)
        except ConfigError as error:
            assert error.hint and str(error.where).startswith((str(path), "--set")), text
            assert len(str(error.what)) < 400, text
            continue
        Config.model_validate(loaded.config.model_dump())
        for problem in loaded.problems:
            assert problem.where.startswith((str(path), "--set")) and problem.hint, text
            assert len(problem.message) < 400 and "\0" not in problem.message, text
            problem.message.encode()
