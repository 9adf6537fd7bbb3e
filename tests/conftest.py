"""Shared: versions in the header, no network, a cache of its own, small runs of the tiny model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import rows, tool_rows, write_jsonl

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["LORAWRIGHT_LANG"] = "en"  # whatever the developer's terminal speaks
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: threads would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

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
