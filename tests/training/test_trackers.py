"""Trackers: the run's name and place, unless the user has set them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lorawright.config import Config
from lorawright.hardware import Device
from lorawright.training import trackers
from lorawright.training.trainer import sft_config


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        for name in [n for n in os.environ if n.startswith(("WANDB", "MLFLOW", "SWANLAB"))]:
            del os.environ[name]
        yield


def test_a_run_is_called_as_its_folder(make_config: Callable[..., Config], tmp_path: Path) -> None:
    def made(**trl: Any) -> Any:
        folder = str(tmp_path / "runs" / "first")
        config = make_config(
            output=folder, trl=trl, optimizer="adamw_torch", trackers=["wandb", "trackio"]
        )
        return sft_config(config, Device.CPU, tmp_path / "checkpoints", evaluates=False)

    assert made().run_name == "first" and made().project == "lorawright"
    mine = made(run_name="mine", project="ours")
    assert (mine.run_name, mine.project) == ("mine", "ours")
    os.environ["WANDB_NAME"] = "theirs"
    assert made().run_name is None, "a name given here would win over the variable"


def test_environment(tmp_path: Path) -> None:
    os.environ["WANDB_PROJECT"] = "theirs"
    trackers.set_environment(tmp_path)
    assert os.environ["WANDB_PROJECT"] == "theirs"
    assert os.environ["WANDB_DIR"] == str(tmp_path)
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "lorawright"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
