"""Every number has bounds, every name a length; what is beyond is one line in `check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from helpers import rows, write_jsonl
from pydantic.fields import FieldInfo

from lorawright.cli import run
from lorawright.config import Config, load_leniently


def leaves(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[tuple[Any, list[Any]]]:
    """(type, its constraints) of a field, unions taken apart."""
    if hasattr(annotation, "__metadata__"):
        inner = [m for item in annotation.__metadata__ for m in getattr(item, "metadata", [item])]
        yield from leaves(annotation.__origin__, (*metadata, *inner))
    elif get_args(annotation) and annotation not in (list, dict):
        for argument in get_args(annotation):
            if not isinstance(argument, str):
                yield from leaves(argument, metadata)
    else:
        yield annotation, list(metadata)


FIELDS = [
    (f"{section}.{name}", info)
    for section, field in Config.model_fields.items()
    for name, info in field.annotation.model_fields.items()  # type: ignore[union-attr]
]


@pytest.mark.parametrize(("key", "info"), FIELDS, ids=[key for key, _ in FIELDS])
def test_every_number_and_text_is_bounded(key: str, info: FieldInfo) -> None:
    for kind, constraints in leaves(info.annotation, tuple(info.metadata)):
        has = lambda *kinds: any(isinstance(c, kinds) for c in constraints)  # noqa: B023, E731
        if kind in (int, float):
            assert has(Ge, Gt) and has(Le, Lt), key
        if kind is float:
            assert any(getattr(c, "allow_inf_nan", None) is False for c in constraints), key
        if kind is str and key not in ("lora.target_modules", "training.trl"):
            assert has(MaxLen), key


BEYOND = [
    ("training.seed", 2**32), ("training.seed", -1), ("data.seed", 2**128), ("lora.alpha", 10**18),
    ("lora.rank", 100_000), ("training.learning_rate", ".inf"), ("training.learning_rate", ".nan"),
    ("training.learning_rate", 11), ("training.epochs", 10_000_000), ("training.epochs", "true"),
    ("training.max_grad_norm", ".inf"), ("training.weight_decay", ".inf"), ("lora.dropout", ".nan"),
    ("data.eval", ".inf"), ("training.warmup_ratio", ".nan"), ("training.batch_size", 10**9),
    ("data.max_length", 10**9), ("distributed.num_processes", 10**9), ("training.max_steps", 10**9),
    ("distributed.main_port", 65536), ("distributed.timeout_seconds", 10**9),
    ("lora.target_modules", "'('"), ("lora.target_modules", "'a{99999999999999}'"),
    ("lora.target_modules", "[]"), ("lora.target_modules", "['']"), ("lora.target_modules", "''"),
    ("lora.target_modules", "'q_proj,v_proj'"), ("model.name", "n" * 256),
    ("model.name", "a/" * 1500),
    ("data.train", "é" * 128), ("training.output", "n" * 5000), ("model.revision", "n" * 300),
    ("template.generation_tags", "n" * 300), ("training.optimizer", "x" * 300),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BEYOND)
def test_beyond_is_one_line(tmp_path: Path, key: str, value: Any) -> None:
    section, name = key.split(".")
    path = tmp_path / "c.yaml"
    path.write_text(f"{section}:\n  {name}: {value}\n", encoding="utf-8")
    (problem,) = load_leniently(path).problems
    assert (problem.path, problem.line) == (key, 2)
    assert len(problem.message) < 200 and problem.hint
    words = ("expected", "regular expression", "whole number of 39")
    assert any(word in problem.message for word in words)


def test_bounds_are_told(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("training: {seed: 4294967296, epochs: 0.5, learning_rate: .inf}\n")
    epochs, rate, seed = sorted(load_leniently(path).problems, key=lambda p: p.path)
    assert "less than 4294967296" in seed.message
    path.write_text("training: {learning_rate: 1e9}\n")
    (problem,) = load_leniently(path).problems
    assert "expected a number less than or equal to 10" in problem.message
    assert "a whole number" in epochs.message and "`training.max_steps`" in epochs.hint
    assert "finite" in rate.message


def test_names_in_one_text_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("lora: {target_modules: 'q_proj, v_proj'}\n")
    (problem,) = load_leniently(path).problems
    assert "write the list `[q_proj, v_proj]`" in problem.message


def test_whole_epochs_may_have_a_point(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("training: {epochs: 3.0}\n")
    assert load_leniently(path).config.training.epochs == 3


def test_the_longest_plan_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(40))
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: tiny}\ndata: {train: a.jsonl}\ntraining: {batch_size: 1}\n")
    assert run(["plan", str(path), "--set", "training.epochs=10000000"]) == 2
    assert "less than or equal to 10000" in capsys.readouterr().err
    assert run(["plan", str(path), "--set", "training.epochs=10000"]) == 0
    out = capsys.readouterr().out
    assert "400,000 of 1 chats" in out
    assert "warm-up 12000 of 400000 steps; step 1 has learning rate 0" in out
