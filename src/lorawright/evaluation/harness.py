"""A base, an adapter and tasks → results of lm-evaluation-harness, by its own command."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from lorawright.errors import ConfigError, LorawrightError

PACKAGE = "lm_eval"


def refuse_if_missing() -> None:
    """Raises ConfigError where the harness is not installed; before anything is computed."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            "needs lm-evaluation-harness, which is not installed",
            where="--lm-eval",
            hint="pip install 'lm-eval[hf]'",
        )


def command(base: Path, adapter: Path, tasks: str, output: Path, device: str) -> list[str]:
    """What is run; print it to run it elsewhere."""
    return [
        sys.executable, "-m", PACKAGE,
        "--model", "hf",
        "--model_args", f"pretrained={base},peft={adapter}",
        "--tasks", tasks,
        "--device", device,
        "--batch_size", "auto",
        "--apply_chat_template",
        "--output_path", str(output),
    ]  # fmt: skip


def run(base: Path, adapter: Path, tasks: str, output: Path, device: str) -> None:
    """Runs the tasks; the harness writes its results; its messages go to stderr.

    Raises:
        LorawrightError: It failed.
    """
    done = subprocess.run(command(base, adapter, tasks, output, device), stdout=sys.stderr)
    if done.returncode:
        raise LorawrightError(
            f"lm-evaluation-harness ended with code {done.returncode}",
            where=f"--lm-eval {tasks}",
            hint="see its messages above; `lm-eval ls tasks` lists what it knows",
        )
