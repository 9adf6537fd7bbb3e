"""A full disk is an error with a hint; what was saved before stays."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorawright.config import Config
from lorawright.errors import TrainError
from lorawright.run import checkpoint
from lorawright.run.folder import RunFolder
from lorawright.training import failures, train
from lorawright.training.train import Start

MakeConfig = Callable[..., Config]
# a file may not grow over a limit that is set once the first checkpoint stands
FULL = """
import resource, signal, sys
from lorawright.training import train
from lorawright.config import Config
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from lorawright.run.events import StepFinished
def fill(event):
    if isinstance(event, StepFinished) and event.number == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
train.run(Config.model_validate_json(sys.argv[1]), tell=fill)
"""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_each_library_says_it_in_its_own_way(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="disk is full"), failures.disk_full(RunFolder(tmp_path)):
        raise error


@pytest.mark.parametrize("free", [1_000, 10**12])
def test_torch_ends_a_file_it_could_not_write_with_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """They mean a full disk only where it is full."""
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    expected = TrainError if free == 1_000 else RuntimeError
    with pytest.raises(expected) as caught, failures.disk_full(RunFolder(tmp_path / "run")):
        raise error
    assert ("disk is full" in str(caught.value)) == (free == 1_000)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), failures.disk_full(RunFolder(tmp_path)):
        raise PermissionError(errno.EACCES, "not yours")


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_that_stand(make_config: MakeConfig) -> None:
    """The second checkpoint cannot be written; the run goes on from the first."""
    config = make_config(epochs=2, save_steps=2)
    command = [sys.executable, "-c", FULL, config.model_dump_json()]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "the disk is full" in ended.stderr
    folder = RunFolder(Path(config.training.output))
    latest = checkpoint.latest(folder.checkpoints)
    assert latest is not None and checkpoint.step_of(latest) == 2
    assert train.run(config, start=Start.RESUME).folder.adapter.is_dir()
