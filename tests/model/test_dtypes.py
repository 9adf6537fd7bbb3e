"""What other devices' dtypes ask for, shown on a CPU: float16's scaler, and no float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lorawright.config import Config
from lorawright.errors import TrainError
from lorawright.model import causal_lm, divergence, loss
from lorawright.model.divergence import Predictions
from lorawright.model.logit_scaling import PLAIN
from lorawright.training import process, train, trainer

MakeConfig = Callable[..., Config]


class NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's GPUs are."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float64:
                raise TypeError(f"{operator}: this device has no float64")
        return found


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (loss, causal_lm, trainer):
        monkeypatch.setattr(module, "sum_dtype", lambda device: torch.float32)


def test_a_step_and_an_evaluation_without_float64(
    make_config: MakeConfig, no_float64: None
) -> None:
    config = make_config(8, 4, batch_size=4, log_entropy=True, logging_steps=1)
    with NoFloat64():
        result = train.run(config)
    assert result.num_steps == 2
    assert result.eval_loss is not None and math.isfinite(result.eval_loss)


def test_only_apples_gpus_lack_float64() -> None:
    assert loss.sum_dtype(torch.device("cpu")) is torch.float64
    assert loss.sum_dtype(torch.device("cuda", 1)) is torch.float64
    assert loss.sum_dtype(torch.device("mps")) is torch.float32


def test_divergence_is_measured_in_float64_on_the_cpu(no_float64: None) -> None:
    torch.manual_seed(0)
    hidden_PH, weight_VH = torch.randn(5, 8), torch.randn(11, 8)
    one = Predictions(hidden_PH, weight_VH, None, 1, PLAIN)
    assert one.logits(slice(0, 2)).dtype is torch.float64
    assert divergence.compare(one, one).max_kl == pytest.approx(0, abs=1e-12)


@pytest.fixture
def scaler(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], Any]:
    """Gives a training float16's loss scaler, on the CPU; gradients of some steps overflow."""
    made = torch.amp.GradScaler("cpu")
    real = process._build_trainer

    def make(overflows: Callable[[int], bool]) -> Any:
        def build(*args: Any, **more: Any) -> Any:
            trainer = real(*args, **more)
            accelerator = trainer.accelerator
            accelerator.scaler = made

            def unscale(optimizer: Any = None) -> None:
                for one in accelerator._optimizers:
                    made.unscale_(one.optimizer)

            accelerator.unscale_gradients = unscale

            def hook(gradient: torch.Tensor) -> torch.Tensor:
                return gradient * math.inf if overflows(trainer.state.global_step) else gradient

            first = next(p for p in trainer.model.parameters() if p.requires_grad)
            first.register_hook(hook)
            return trainer

        monkeypatch.setattr(process, "_build_trainer", build)
        return made

    return make


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
def test_an_overflow_is_how_a_scaler_finds_its_scale(
    make_config: MakeConfig, scaler: Callable[[Callable[[int], bool]], Any], optimizer: str
) -> None:
    """The steps are left out, counted in the metrics, and the scale is saved for a resume."""
    made = scaler(lambda step: step in (0, 1))
    config = make_config(batch_size=4, logging_steps=1, save_steps=3, optimizer=optimizer)
    folder = train.run(config).folder
    assert made.get_scale() == 65536 / 4
    lines = [line for line in folder.read_metrics() if "loss" in line]
    assert [line.get("skipped_steps") for line in lines] == [1, 1, None, None, None, None]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert ["grad_norm" in line for line in lines] == [False, False, True, True, True, True]
    saved = torch.load(folder.checkpoints / "checkpoint-3" / "scaler.pt", weights_only=True)
    assert saved["scale"] == 65536 / 4


def test_a_scaler_that_finds_no_scale_ends_the_run(
    make_config: MakeConfig, scaler: Callable[[Callable[[int], bool]], Any]
) -> None:
    scaler(lambda step: True)
    with pytest.raises(TrainError, match="10 steps in a row are too large for float16") as error:
        train.run(make_config(24, batch_size=2))
    assert "`model.dtype: float32`" in str(error.value.hint)
    assert "train.jsonl" in str(error.value.where)
