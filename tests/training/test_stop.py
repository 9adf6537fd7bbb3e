"""Evaluation before the first step, stops in the middle of one, and what a run says of itself."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import rows, signal_after, write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.cli import run as command
from lorawright.config import Config
from lorawright.plan import run_plan
from lorawright.report import page
from lorawright.run import owned
from lorawright.run.events import EvaluationProgressed, Event, silent
from lorawright.run.folder import RunFolder
from lorawright.training import train
from lorawright.training.train import Start

MakeConfig = Callable[..., Config]
Capture = pytest.CaptureFixture[str]
CLOCKED = ("seconds", "tokens_per_second", "eval_seconds")


def metrics(folder: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in CLOCKED} for line in folder.read_metrics()]


def evaluated_steps(folder: RunFolder) -> list[int]:
    return [line["step"] for line in folder.read_metrics() if "eval_loss" in line]


def with_output(config: Config, path: Path) -> Config:
    training = config.training.model_copy(update={"output": str(path)})
    return config.model_copy(update={"training": training})


def assert_equal_runs(one: RunFolder, other: RunFolder) -> None:
    assert metrics(one) == metrics(other)
    name = "adapter_model.safetensors"
    tensors, others = load_file(one.adapter / name), load_file(other.adapter / name)
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)


class StopsAt:
    """A signal after so many passes of evaluations, counted over the run."""

    def __init__(self, num_passes: int) -> None:
        self.left = num_passes
        self.counts: list[tuple[int, int]] = []

    def __call__(self, event: Event) -> None:
        if not isinstance(event, EvaluationProgressed):
            return
        self.counts.append((event.num_done, event.num_all))
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_base_is_evaluated_first(make_config: MakeConfig) -> None:
    """Step 0 is Transformers' own loss of the untouched base on the evaluation set."""
    config = make_config(num_eval=5, max_steps=2)
    folder = train.run(config).folder
    assert evaluated_steps(folder) == [0, 2]
    evaluation = run_plan.make(config, silent).chats.eval
    assert evaluation is not None
    model = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    total = 0.0
    for chat in evaluation:
        ids = torch.tensor([chat.ids])
        labels = torch.where(torch.tensor([chat.trained_flags()], dtype=torch.bool), ids, -100)
        total += float(model(ids, labels=labels).loss.detach()) * chat.num_trained_tokens
    first = next(folder.read_metrics())
    assert first["eval_loss"] == pytest.approx(total / evaluation.num_trained_N.sum(), rel=1e-5)


# Five chats, a pass each, evaluated at steps 0, 3 and 6 of six: passes seen by each sitting, and
# where it is stopped: before the first step, between steps, behind the last one.
SITTINGS = [(3, 0), (5, 0), (8, 3), (8, 6)]


def test_a_stop_in_an_evaluation_is_resumed_bit_equal(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Again and again; each stop waits for the pass that runs, not for the evaluation."""
    settings = {"num_eval": 5, "eval_steps": 3, "save_steps": 100, "max_steps": 6, "epochs": 3}
    config = make_config(tokens_per_pass=1, dropout=0.05, **settings)
    undisturbed = train.run(config).folder
    assert evaluated_steps(undisturbed) == [0, 3, 6]
    other = with_output(config, tmp_path / "stopped")
    start = Start.NEW
    for num_passes, step in SITTINGS:
        screen = StopsAt(num_passes)
        stopped = train.run(other, start=start, tell=screen)
        assert len(screen.counts) == num_passes and stopped.outcome.last_step == step
        assert stopped.stopped_by is signal.SIGTERM and not stopped.folder.adapter.exists()
        start = Start.RESUME
    assert train.run(other, start=start).stopped_by is None
    assert_equal_runs(stopped.folder, undisturbed)


def test_progress_counts_the_chats(make_config: MakeConfig) -> None:
    screen = StopsAt(100)
    train.run(make_config(num_eval=5, tokens_per_pass=1, max_steps=1), tell=screen)
    assert screen.counts[:5] == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_time_is_summed_over_sittings(make_config: MakeConfig, tmp_path: Path) -> None:
    """The same number in the result, in the report's facts, and from the lines."""
    config = make_config(num_eval=3, epochs=3, save_steps=3)

    first = train.run(config, tell=signal_after(5, signal.SIGTERM))
    second = train.run(config, start=Start.RESUME)
    lines = list(second.folder.read_metrics())
    whole = sum(line.get("seconds", line.get("eval_seconds", 0.0)) for line in lines)
    assert second.seconds == pytest.approx(whole) and second.seconds > first.seconds
    assert second.folder.read_json("result.json")["seconds"] == second.seconds  # type: ignore[index]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data" / "train.jsonl", rows(12))
    write_jsonl(tmp_path / "data" / "eval.jsonl", rows(16)[12:])
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny, dtype: float32}\n"
        "data: {train: data/train.jsonl, eval: data/eval.jsonl}\n"
        "training: {output: run, max_steps: 4, save_steps: 1, trackers: []}\n"
    )
    return tmp_path


def test_train_json_keeps_its_keys(project: Path, capsys: Capture) -> None:
    assert command(["train", "c.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert (found["first_loss"], found["last_loss"]) == (losses[0], losses[-1])
    assert found["eval_loss"] == lines[-1]["eval_loss"]
    assert found["first_eval_loss"] == lines[0]["eval_loss"] and found["first_eval_step"] == 0
    assert found["mean_last_loss"] == losses[-1] and found["num_last"] == 1
    assert found["change"] in ("better", "worse", "unclear")


def test_the_exact_resume_command_is_in_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """With its `--set`s and the whole path: it works from another folder."""

    from lorawright.cli.screen import TrainScreen

    interrupt = signal_after(2, signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(TrainScreen, "_show", lambda _, event: interrupt(event))
        assert command(["train", "c.yaml", "--set", "training.learning_rate=0.003"]) == 130
    error = capsys.readouterr().err
    assert "stopping after this step, then saving; Ctrl-C again stops now" in error
    typed = "lorawright train c.yaml --set training.learning_rate=0.003 --resume"
    assert f"stopped by SIGINT, saved; go on with: {typed}" in error
    wanted = f"lorawright train {project / 'c.yaml'} --set training.learning_rate=0.003 --resume"
    text = (project / "run" / "report.html").read_text("utf-8")
    assert f"<pre>{wanted}</pre>" in text and "CONFIG --resume" not in text
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert command(shlex.split(wanted)[1:]) == 0
    assert "going on from step 2" in capsys.readouterr().err


REFUSED = [
    (["--set", "training.output=run"], "run: holds a run already"),
    (["--set", "training.output=none", "--resume"], "none: holds no run to go on with"),
    (["--set", "training.output=c.yaml"], "c.yaml: is a file, expected a folder or nothing"),
    (["--set", "data.train=data/non"], "data/non: no such file or folder"),
    (["--set", "data.eval=none.jsonl"], "none.jsonl: no such file or folder"),
]


@pytest.mark.parametrize(("arguments", "what"), REFUSED, ids=[what for _, what in REFUSED])
def test_refusals_come_before_torch(project: Path, arguments: list[str], what: str) -> None:
    run = project / "run"
    run.mkdir()
    if "training.output" in arguments[1]:
        owned.mark(run, owned.Marker(owned.Kind.RUN))
        (run / "metrics.jsonl").touch()
    code = f"from lorawright.cli import run; code = run({['train', 'c.yaml', *arguments]!r})\n"
    code += "import sys; sys.exit(100 * ('torch' in sys.modules) + code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {what}\n") and "hint:" in done.stderr


def test_plan_counts_evaluations(project: Path, capsys: Capture) -> None:
    settings = ["--set", "training.eval_steps=3"]
    assert command(["plan", "c.yaml", "--json", *settings]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_evaluations"] == 3, "before the first step, at step 3, behind the last"
    assert 0 < found["evaluation_seconds"] < found["seconds"]
    assert command(["plan", "c.yaml", *settings]) == 0
    assert "of it evaluation 3 × " in capsys.readouterr().out


def test_step_1_without_a_learning_rate_is_said(make_config: MakeConfig) -> None:
    folder = train.run(make_config(max_steps=4, warmup_ratio=0.5)).folder
    assert next(folder.read_metrics())["learning_rate"] == 0
    from lorawright.run import facts

    made = page.render(facts.read(folder.path), page.Language.ENGLISH)
    assert "step 1 has rate 0: the warm-up begins there" in made
