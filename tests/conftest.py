"""Shared: versions in the header, no network, a cache of its own, small runs of the tiny model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["LORAWRIGHT_LANG"] = "en"  # whatever the developer's terminal speaks

from lorawright import hardware
from lorawright.config import Config
from lorawright.run.environment import installed_versions
from lorawright.run.folder import RunFolder

hardware.set_short_spin(os.environ)  # nothing has imported torch yet


def pytest_report_header() -> str:
    return ", ".join(f"{name} {number}" for name, number in installed_versions().items() if number)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("LORAWRIGHT_CACHE", str(cache))


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


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """A config of the tiny model in float32 on a few rows; keywords are training settings."""

    def make(num_rows: int = 22, num_eval: int = 0, **training: Any) -> Config:
        made = rows(num_rows + num_eval)
        train = write_jsonl(tmp_path / "train.jsonl", made[:num_rows])
        evaluation = write_jsonl(tmp_path / "eval.jsonl", made[num_rows:]) if num_eval else None
        lora = {"dropout": training.pop("dropout", 0.0)}
        settings = {
            "output": str(tmp_path / "run"),
            "epochs": 1,
            "learning_rate": 2e-3,
            "trackers": [],
            **training,
        }
        return Config.model_validate(
            {
                "model": {"name": "tiny", "dtype": "float32"},
                "data": {
                    "train": str(train),
                    "eval": None if evaluation is None else str(evaluation),
                },
                "lora": lora,
                "training": settings,
            }
        )

    return make


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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """One run of the tiny model on chats and tool calls, with an evaluation set; only read it."""
    from lorawright.training import train

    folder = tmp_path_factory.mktemp("trained")
    os.environ["LORAWRIGHT_CACHE"] = str(folder / "cache")  # session: before the test's own
    made = [*rows(20), *tool_rows(20)]
    config = Config.model_validate(
        {
            "model": {"name": "tiny", "dtype": "float32"},
            "data": {
                "train": str(write_jsonl(folder / "train.jsonl", made[:16] + made[20:36])),
                "eval": str(write_jsonl(folder / "eval.jsonl", made[16:20] + made[36:])),
            },
            "training": {
                "output": str(folder / "run"),
                "epochs": 8,
                "learning_rate": 8e-3,
                "trackers": [],
            },
        }
    )
    return train.run(config).folder


@pytest.fixture
def trained_run(finished_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy of the finished run, to write results into."""
    path = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(finished_run.path, path)
    return RunFolder(path)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run of the tiny model with an evaluation set; copy it to change it."""
    from lorawright.training import train

    folder = tmp_path_factory.mktemp("finished")
    write_jsonl(folder / "train.jsonl", rows(24))
    write_jsonl(folder / "eval.jsonl", rows(28)[24:])
    config = Config.model_validate(
        {
            "model": {"name": "tiny", "dtype": "float32"},
            "data": {"train": str(folder / "train.jsonl"), "eval": str(folder / "eval.jsonl")},
            "lora": {"dropout": 0.0},
            "training": {
                "output": str(folder / "run"), "epochs": 2, "learning_rate": 2e-2,
                "eval_steps": 2, "save_steps": 3, "trackers": [],
            },
        }
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAWRIGHT_CACHE", str(folder / "cache"))
        patch.setenv("LC_ALL", "en_US.UTF-8")
        train.run(config)
    return folder / "run"


@pytest.fixture
def own_run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run, to be changed."""
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"
