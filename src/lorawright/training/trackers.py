"""Config → name and place of a run in wandb, mlflow, trackio and swanlab.

Transformers' callbacks read names from `SFTConfig` and from environment variables; what a user has
set, in either place, stays.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lorawright.config.schema import TrainingSettings

PROJECT = "lorawright"


def names(training: TrainingSettings) -> dict[str, Any]:
    """Fields of `SFTConfig` that `training.trl` does not hold: the run is called as its folder."""
    found: dict[str, Any] = {"project": PROJECT}  # trackio's
    if "WANDB_NAME" not in os.environ:
        found["run_name"] = Path(training.output).resolve().name
    return {name: value for name, value in found.items() if name not in training.trl}


def set_environment(run: Path) -> None:
    """What the callbacks take from nowhere else.

    Args:
        run: The run's folder; wandb and swanlab write into it.
    """
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / "tensorboard")
    for name, value in {
        "WANDB_PROJECT": PROJECT,
        "WANDB_DIR": str(run),
        "SWANLAB_PROJECT": PROJECT,
        "SWANLAB_LOG_DIR": str(run / "swanlog"),
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
    }.items():
        os.environ.setdefault(name, value)
