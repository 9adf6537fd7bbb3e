"""Training on the tiny model: same steps however they are computed, exact resume, honest ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import signal_after
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.config import Config
from lorawright.errors import ConfigError, RunFolderError, TrainError
from lorawright.model import attention, loss
from lorawright.plan import run_plan, settings
from lorawright.plan.attention import Attention
from lorawright.run import checkpoint
from lorawright.run.events import Event, Noted, silent
from lorawright.run.folder import RunFolder
from lorawright.training import failures, train
from lorawright.training.train import Start

MakeConfig = Callable[..., Config]
ASSETS = Path(__file__).parents[1] / "assets"


def losses(folder: RunFolder) -> list[float]:
    return [line["loss"] for line in folder.read_metrics() if "loss" in line]


def metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Lines without what a clock decides."""
    clocked = ("seconds", "tokens_per_second", "eval_seconds")
    return [{k: v for k, v in line.items() if k not in clocked} for line in folder.read_metrics()]


def adapter(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.adapter / "adapter_model.safetensors")


def with_output(config: Config, path: Path) -> Config:
    training = config.training.model_copy(update={"output": str(path)})
    return config.model_copy(update={"training": training})


def close(left: list[float], right: list[float], relative: float) -> bool:
    return len(left) == len(right) and all(
        abs(a - b) <= relative * abs(b) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_passes_change_nothing(make_config: MakeConfig, tmp_path: Path, dropout: float) -> None:
    """Batch 8 in one pass equals eight passes of one chat: losses, norms and the adapter."""
    other = {"epochs": 2, "dropout": dropout}
    whole = train.run(make_config(tokens_per_pass=4096, **other)).folder
    apart = train.run(make_config(tokens_per_pass=1, **other, output=str(tmp_path / "b"))).folder
    assert close(losses(apart), losses(whole), 1e-5)
    norms = [[line["grad_norm"] for line in f.read_metrics()] for f in (apart, whole)]
    assert close(norms[0], norms[1], 1e-4)
    for name, tensor in adapter(whole).items():
        # by norm: Adam moves a weight whose gradient is rounding noise by a whole step
        assert (adapter(apart)[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


def test_gradient_checkpointing_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    plain = train.run(make_config(gradient_checkpointing=False, dropout=0.05)).folder
    saving = train.run(
        make_config(gradient_checkpointing=True, dropout=0.05, output=str(tmp_path / "b"))
    ).folder
    assert close(losses(saving), losses(plain), 1e-6)


def test_loss_is_the_mean_over_the_steps_trained_tokens(make_config: MakeConfig) -> None:
    """The first loss is Transformers' own cross-entropy over the same chats."""
    config = make_config(num_rows=6)
    result = train.run(config)
    chats = run_plan.make(config, silent).chats.train
    model = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    total = 0.0
    for chat in chats:
        ids = torch.tensor([chat.ids])
        labels = torch.where(torch.tensor([chat.trained_flags()], dtype=torch.bool), ids, -100)
        total += float(model(ids, labels=labels).loss.detach()) * chat.num_trained_tokens
    mean = total / int(chats.num_trained_N.sum())
    assert result.first_loss == pytest.approx(mean, rel=1e-5)


def test_evaluation_is_a_mean_over_tokens(make_config: MakeConfig, tmp_path: Path) -> None:
    small = train.run(make_config(num_eval=7, tokens_per_pass=1)).eval_loss
    large = train.run(
        make_config(num_eval=7, tokens_per_pass=4096, output=str(tmp_path / "b"))
    ).eval_loss
    assert small is not None and small == pytest.approx(large, rel=1e-5)


def test_no_cross_talk_in_a_pass() -> None:
    """Another chat in the pack leaves a chat's hidden states bit-equal."""
    folder = hub.model_folder("tiny")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=Attention.SEGMENTS
    ).eval()
    first, second, other = torch.arange(5, 25), torch.arange(30, 47), torch.arange(60, 77)

    def hidden(neighbour: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([first, neighbour])[None]
        positions = torch.cat([torch.arange(20), torch.arange(17)])[None]
        shape = attention.PassShape.plain(20, 17)
        output = model.model(ids, position_ids=positions, use_cache=False, pass_shape=shape)
        return output.last_hidden_state[0, :20]

    with torch.no_grad():
        assert torch.equal(hidden(second), hidden(other))


def test_head_equals_cross_entropy() -> None:
    """Loss, hits and gradient of the fused loss, over a chunk's edge, with a bias."""
    torch.manual_seed(0)
    num_positions = loss.CHUNK + 7
    hidden = torch.randn(num_positions, 8, dtype=torch.float64).requires_grad_()
    weight, bias = torch.randn(11, 8, dtype=torch.float64), torch.randn(11, dtype=torch.float64)
    targets = torch.randint(0, 11, (num_positions,))
    weights = torch.randint(1, 4, (num_positions,)).float()
    sums = loss.fused_linear_cross_entropy(
        hidden, weight, bias, targets, weights, with_entropy=True
    )
    (sums.loss * 0.5).backward()
    expected_hidden = hidden.detach().clone().requires_grad_()
    logits = expected_hidden @ weight.T + bias
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    expected = (weights * each).sum()
    (expected * 0.5).backward()
    assert sums.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(sums.hits) == int((weights * (logits.argmax(-1) == targets)).sum())
    entropy = torch.distributions.Categorical(logits=logits.detach()).entropy()
    assert sums.entropy.item() == pytest.approx(float((weights * entropy).sum()), rel=1e-5)
    assert expected_hidden.grad is not None
    assert torch.allclose(hidden.grad, expected_hidden.grad, atol=1e-5)  # type: ignore[arg-type]


def test_golden_run(make_config: MakeConfig) -> None:
    """A refactoring owes these losses; a change of numerics owes a reason for new ones.

    The tolerance covers other CPUs' orders of summation.
    """
    golden = json.loads((ASSETS / "golden.json").read_text())
    result = train.run(make_config(num_rows=20, epochs=3, dropout=0.05))
    assert close(losses(result.folder), golden["loss"], 1e-4)


def test_stop_and_resume_is_bit_equal(make_config: MakeConfig, tmp_path: Path) -> None:
    """Stopped by a signal after a step and resumed: the adapter and every metric are the same."""
    config = make_config(epochs=3, dropout=0.05, save_steps=4, num_eval=3, eval_steps=4)
    undisturbed = train.run(config).folder

    other = with_output(config, tmp_path / "stopped")
    stopped = train.run(other, tell=signal_after(5, signal.SIGTERM))
    assert stopped.stopped_by is signal.SIGTERM and not stopped.folder.adapter.exists()
    resumed = train.run(other, start=Start.RESUME).folder
    assert metrics(resumed) == metrics(undisturbed)
    for name, tensor in adapter(undisturbed).items():
        assert torch.equal(adapter(resumed)[name], tensor), name


KILLED = """
import os, signal, sys
from lorawright.training import train
from lorawright.config import Config
from lorawright.run.events import StepFinished
def kill(event):
    if isinstance(event, StepFinished) and event.number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
train.run(Config.model_validate_json(sys.argv[1]), tell=kill)
"""


@pytest.mark.slow
def test_kill_and_resume_is_bit_equal(make_config: MakeConfig, tmp_path: Path) -> None:
    """`kill -9` between checkpoints: the steps after the last one are run again, bit by bit."""
    config = make_config(epochs=3, dropout=0.05, save_steps=3)
    undisturbed = train.run(config).folder
    other = with_output(config, tmp_path / "killed")
    command = [sys.executable, "-c", KILLED, other.model_dump_json(), "5"]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    resumed = train.run(other, start=Start.RESUME).folder
    assert metrics(resumed) == metrics(undisturbed)
    for name, tensor in adapter(undisturbed).items():
        assert torch.equal(adapter(resumed)[name], tensor), name


def test_incomplete_checkpoint_is_passed_over(make_config: MakeConfig) -> None:
    config = make_config(epochs=3, save_steps=3)
    folder = train.run(config).folder
    newest = checkpoint.latest(folder.checkpoints)
    assert newest is not None
    (newest / "optimizer.pt").write_bytes(b"half")
    notes: list[str] = []

    def keep(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    train.run(config, start=Start.RESUME, tell=keep)
    assert any("is not complete and does not count" in note for note in notes)
    assert (newest.with_name(newest.name + ".broken") / "optimizer.pt").read_bytes() == b"half"


def test_resume_refuses_another_run(make_config: MakeConfig) -> None:
    config = make_config(epochs=2, save_steps=3)
    train.run(config)
    training = config.training.model_copy(update={"learning_rate": 1e-4})
    changed = config.model_copy(update={"training": training})
    with pytest.raises(RunFolderError, match=r"learning_rate was 0\.002, is 0\.0001"):
        train.run(changed, start=Start.RESUME)
    train.run(changed, start=Start.RESUME_ANYWAY)


def test_taken_folder_is_refused(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    train.run(config)
    with pytest.raises(RunFolderError, match="holds a run already"):
        train.run(config)
    train.run(config, start=Start.OVERWRITE)


def test_nonfinite_loss_stops_before_the_step(make_config: MakeConfig) -> None:
    """The error names the step's chats; no adapter is written."""
    config = make_config(learning_rate=10, weight_decay=100, max_grad_norm=0.0)
    with pytest.raises(TrainError, match=r"train\.jsonl:\d+") as caught:
        train.run(config)
    assert "not applied" in str(caught.value.hint)
    assert not RunFolder(Path(config.training.output)).adapter.exists()


def test_failure_before_the_first_step_leaves_no_folder(make_config: MakeConfig) -> None:
    config = make_config(optimizer="adamm")
    with pytest.raises(ConfigError, match="TRL refuses these settings: adamm"):
        train.run(config)
    assert not Path(config.training.output).exists()


def test_missing_tracker_is_refused_early(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package swanlab") as caught:
        train.run(make_config(trackers=["swanlab"]))
    assert caught.value.hint == "pip install swanlab"


def test_run_folder_is_complete(make_config: MakeConfig) -> None:
    """Every file of the design, a loadable adapter, the template unchanged."""
    folder = train.run(make_config(num_eval=3, trackers=["tensorboard"])).folder
    names = {path.name for path in folder.path.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "certificate.json", "data.json", "rejected.jsonl",
        "metrics.jsonl", "checkpoints", "adapter", "tensorboard",
    }  # fmt: skip
    template = (hub.model_folder("tiny") / "chat_template.jinja").read_bytes()
    assert (folder.adapter / "chat_template.jinja").read_bytes() == template
    assert list(folder.tensorboard.rglob("events.out.tfevents.*"))
    first, line, *_ = folder.read_metrics()
    assert first["step"] == 0 and "eval_loss" in first
    assert line.keys() >= {
        "step", "loss", "grad_norm", "learning_rate", "tokens", "trained_tokens",
        "tokens_per_second", "seconds",
    }  # fmt: skip
    assert all(tensor.dtype == torch.float32 for tensor in adapter(folder).values())


def test_out_of_memory_names_the_setting(make_config: MakeConfig) -> None:
    plan = run_plan.make(make_config(), silent)
    with pytest.raises(TrainError) as caught, failures.out_of_memory(plan.settings):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "the estimate was" in caught.value.what
    assert "training.gradient_checkpointing" in str(caught.value.hint)


def test_resume_refuses_another_base(make_config: MakeConfig, tmp_path: Path) -> None:
    """Other weights in the same folder are another run."""
    base = tmp_path / "base"
    shutil.copytree(hub.model_folder("tiny"), base)
    config = make_config(epochs=2, save_steps=3)
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"name": str(base)})}
    )
    train.run(config)
    weights = load_file(base / "model.safetensors")
    save_file({k: v * 1.1 for k, v in weights.items()}, base / "model.safetensors")
    with pytest.raises(RunFolderError, match="base_weights was"):
        train.run(config, start=Start.RESUME)


def test_resume_compares_weights_that_are_still_to_be_fetched(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a hub id and a new cache: only the tokenizer is there when the chats are encoded."""
    whole = hub.model_folder("tiny")
    cache = tmp_path / "snapshot"
    shutil.copytree(whole, cache, ignore=shutil.ignore_patterns("*.safetensors"))

    def fetch(*_: object, **__: object) -> Path:
        shutil.copytree(whole, cache, dirs_exist_ok=True)
        return cache

    monkeypatch.setattr(hub, "tokenizer_folder", lambda *_: cache)
    monkeypatch.setattr(hub, "model_folder", fetch)
    config = make_config(epochs=2, save_steps=3)
    train.run(config)
    (cache / "model.safetensors").unlink()
    train.run(config, start=Start.RESUME)
