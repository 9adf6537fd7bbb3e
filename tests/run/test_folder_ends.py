"""However a verb ends, what it did not write is there; and a killed one leaves old or new."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorawright.config import Config
from lorawright.errors import ConfigError, RunFolderError, TrainError
from lorawright.exporters import eject
from lorawright.model import load
from lorawright.run import checkpoint, owned
from lorawright.run.events import Event, StepFinished, TrainingStarted
from lorawright.run.folder import RunFolder
from lorawright.training import artifacts, process, train
from lorawright.training.train import Start

MakeConfig = Callable[..., Config]
REPLACE = """
import sys
from pathlib import Path
from lorawright.run import owned
from lorawright.run.owned import Kind, Marker
target, marker = Path(sys.argv[1]), Marker(Kind.MODEL, ("a", "b"))
number = 0
while True:
    number += 1
    work = owned.begin_work(target, marker)
    for name in ("a", "b"):
        (work / name).write_text(str(number))
    owned.finish_work(work, target, marker, marker)
    if number == 1:
        print("ready", flush=True)
"""


def noted(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_bytes(b"mine")
    (folder / "old").mkdir()
    (folder / "old" / "metrics.jsonl").write_bytes(b"{}")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in owned.files_in(folder)}


def interrupt(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)  # the second leaves at once


def leave(*_: object, **__: object) -> None:
    raise KeyboardInterrupt  # no signal: nobody listens here, and a second would end the tests


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def surprise(*_: object, **__: object) -> None:
    raise RuntimeError("nobody expects this")


STAGES = [
    (load, "load_base"),
    (artifacts, "begin"),
    (process, "_build_trainer"),
    TrainingStarted,
    StepFinished,
]
ENDS = [
    *((stage, interrupt, stood) for stage in STAGES for stood in (True, False)),
    *((STAGES[3], end, True) for end in (full, surprise)),
]


@pytest.mark.parametrize("stage, end, stood", ENDS)
def test_a_start_that_fails_leaves_only_what_was_there(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, stage: Any,
    end: Callable[..., None], stood: bool,
) -> None:  # fmt: skip
    config = make_config(num_rows=4, logging_steps=50)
    run = Path(config.data.train).parent / "new" / "run"
    training = config.training.model_copy(update={"output": str(run)})
    config = config.model_copy(update={"training": training})
    before = noted(run) if stood else {}
    if isinstance(stage, tuple):
        monkeypatch.setattr(*stage, end)

    def tell(event: Event) -> None:
        if type(event) is stage:
            end()

    with pytest.raises((KeyboardInterrupt, TrainError, RuntimeError, OSError)):
        train.run(config, tell=tell)
    assert contents(run) == before
    assert run.parent.exists() == stood
    assert not stood or sorted(path.name for path in run.iterdir()) == ["notes.txt", "old"]


def test_overwriting_fails_and_the_old_run_stays(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded nothing is removed; a resumed run is never taken away."""
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    folder = train.run(config).folder
    before = contents(folder.path)
    for start in (Start.OVERWRITE, Start.RESUME):
        with monkeypatch.context() as patch:
            patch.setattr(load, "load_base", surprise)
            with pytest.raises(RuntimeError):
                train.run(config, start=start)
        assert contents(folder.path) == before
    with monkeypatch.context() as patch:
        patch.setattr(process, "_build_trainer", surprise)
        with pytest.raises(RuntimeError):
            train.run(config, start=Start.RESUME)
    assert contents(folder.path).keys() == before.keys()
    assert train.run(config, start=Start.RESUME).folder.finished_adapter() is not None


def test_an_adapter_that_is_killed_while_it_is_saved(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one does not count; the resumed run takes what is left and writes it whole."""
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    folder = RunFolder(Path(config.training.output))
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.card, "write", surprise)
        with pytest.raises(RuntimeError):
            train.run(config)
    assert folder.finished_adapter() is None and (folder.path / "adapter.tmp").is_dir()
    train.run(config, start=Start.RESUME)
    assert folder.finished_adapter() is not None and not (folder.path / "adapter.tmp").exists()
    marker = owned.read(folder.adapter)
    assert marker is not None and "adapter_model.safetensors" in marker.sha256


def test_a_pickle_that_would_run_code_is_named(make_config: MakeConfig) -> None:
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    folder = train.run(config).folder
    latest = checkpoint.latest(folder.checkpoints)
    assert latest is not None
    facts = checkpoint.read(latest)
    assert facts is not None
    ran = folder.path / "ran"

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    torch.save({"state": Harmful()}, latest / "optimizer.pt", pickle_module=pickle)
    checkpoint.seal(latest, {name: facts[name] for name in ("step", "belongs_to")})
    with pytest.raises(TrainError, match="holds more than numbers") as caught:
        train.run(config, start=Start.RESUME)
    assert caught.value.where == str(latest / "optimizer.pt") and not ran.exists()


def test_replacing_is_killed_at_any_moment(tmp_path: Path) -> None:
    """`kill -9` again and again: the next one finds old or new, never half of one."""
    target = tmp_path / "merged"
    (tmp_path / "merged.bak").mkdir()
    for number in range(8):
        command = [sys.executable, "-c", REPLACE, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(0.05 + number * 0.013)
            process.kill()
        there = target if target.exists() else target.with_name("merged.old")
        texts = {(there / name).read_text() for name in ("a", "b")}
        assert len(texts) == 1
    work = owned.begin_work(target, owned.Marker(owned.Kind.MODEL))
    owned.drop_work(work)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "merged.bak"]
    assert len({(target / name).read_text() for name in ("a", "b")}) == 1


def test_eject_removes_nothing_of_others(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(num_rows=4)
    folder, work = tmp_path / "script", tmp_path / "script.tmp"
    before = noted(work)
    with pytest.raises(RunFolderError, match="is in the way"):
        eject.eject(config, "c.yaml", folder)
    assert contents(work) == before
    work.rename(tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(eject, "_write_data", leave)
        with pytest.raises(KeyboardInterrupt):
            eject.eject(config, "c.yaml", folder)
    assert not folder.exists() and not work.exists()
    work.mkdir()
    owned.mark(work, owned.Marker(owned.Kind.SCRIPT, ("train.py",), finished=False))
    (work / "train.py").write_text("half, left by a kill")
    done = eject.eject(config, "c.yaml", folder)
    assert not work.exists() and owned.MARKER not in done.files and "train.py" in done.files
    assert contents(tmp_path / "mine") == before


def test_train_names_no_overwrite_for_a_project(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`training.output: .`, with and without --overwrite: refused before anything is read."""
    config = make_config()
    (tmp_path / "config.yaml").write_text("model: {name: tiny}")
    monkeypatch.chdir(tmp_path)
    training = config.training.model_copy(update={"output": "."})
    config = config.model_copy(update={"training": training})
    before = contents(tmp_path)
    for start in (Start.NEW, Start.OVERWRITE):
        with pytest.raises(ConfigError, match="the current folder") as caught:
            train.run(config, start=start, source=Path("config.yaml"))
        assert "--overwrite" not in str(caught.value.hint)
    assert contents(tmp_path) == before
