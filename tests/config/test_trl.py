"""`training.trl`: an allow-list of fields that do what they say and keep the promises."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorawright.config import Config, load_leniently, schedules, trl_fields
from lorawright.errors import ConfigError
from lorawright.hardware import Device
from lorawright.run.folder import RunFolder
from lorawright.training import sft_fields, train
from lorawright.training.train import Start
from lorawright.training.trainer import sft_config

TABLES = (trl_fields.ALLOWED, trl_fields.OURS, trl_fields.REFUSED)


def found(folder: Path, training: str) -> list[tuple[str, str, str]]:
    path = folder / "config.yaml"
    path.write_text(f"training:\n  {training}\n", encoding="utf-8")
    problems = load_leniently(path).problems
    assert all(problem.line for problem in problems)
    return [(p.path.removeprefix("training.trl."), p.message, p.hint) for p in problems]


def test_every_field_of_the_installed_trl_is_decided() -> None:
    """Fails when TRL or Transformers add a field: put it into one of the tables."""
    from trl import SFTConfig

    listed = [name for table in TABLES for name in table]
    assert len(listed) == len(set(listed))
    assert set(listed) == {field.name for field in dataclasses.fields(SFTConfig)}
    assert set(trl_fields.EXPECTED) == set(trl_fields.ALLOWED)


def test_what_we_set_ourselves_is_not_allowed() -> None:
    config = Config.model_validate({"training": {"gradient_checkpointing": False}})
    ours = sft_fields.planned(config, Device.CPU, Path("x"), True)
    # the two names stand in unless `training.trl` has them
    assert set(ours) & set(trl_fields.ALLOWED) <= {"run_name", "project"}


def test_ours_lead_to_real_keys() -> None:
    for target in set(trl_fields.OURS.values()) - {"train --resume"}:
        section, name = target.split(".")
        assert name in Config.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [*trl_fields.OURS, *trl_fields.REFUSED])
def test_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    ((path, message, hint),) = found(tmp_path, f"trl: {{{name}: true}}")
    if "secret" in message:
        assert name.endswith("token")
        return
    assert path == name and len(hint) > 15
    config = Config.model_validate({"training": {"trl": {name: True}}})
    with pytest.raises(ConfigError, match=name):  # also of a config that was made in Python
        sft_config(config, Device.CPU, Path("x"), evaluates=False)


def test_unknown_ones_name_the_nearest(tmp_path: Path) -> None:
    ((_, message, hint),) = found(tmp_path, "trl: {adam_beta_1: 0.8}")
    assert "known here" in message and hint == "did you mean `adam_beta1`?"
    ((_, _, hint),) = found(tmp_path, "trl: {xyzzy: 0.8}")
    assert "adam_beta1" in hint


@pytest.mark.parametrize(
    ("training", "path", "word"),
    [
        ("trl: {adam_beta1: 5}", "adam_beta1", "from 0 to below 1"),
        ("trl: {adam_beta2: 1}", "adam_beta2", "from 0 to below 1"),
        ("trl: {adam_epsilon: .nan}", "adam_epsilon", "above 0"),
        ("trl: {adam_epsilon: '1'}", "adam_epsilon", "above 0"),
        ("trl: {eval_delay: -1}", "eval_delay", "whole number"),
        ("trl: {logging_first_step: 1}", "logging_first_step", "true or false"),
        ("trl: {torch_empty_cache_steps: 0}", "torch_empty_cache_steps", "whole number"),
        ("trl: {lr_scheduler_kwargs: 5}", "lr_scheduler_kwargs", "a mapping"),
        (
            "trl: {lr_scheduler_kwargs: {min_lr_rate: 0.1}}",
            "lr_scheduler_kwargs.min_lr_rate",
            "no argument",
        ),
        ("{optimizer: sgd, trl: {adam_beta1: 0.5}}", "adam_beta1", "does nothing"),
        ("{optimizer: lion_32bit, trl: {adam_epsilon: 0.5}}", "adam_epsilon", "does nothing"),
        ("trl: {optim_args: momentum=0.9}", "optim_args", "does nothing"),
        ("{optimizer: sgd, trl: {optim_args: 'momentun=0.9'}}", "optim_args", "momentun"),
        ("{optimizer: sgd, trl: {optim_args: 'momentum=x'}}", "optim_args", "0 to 1"),
        ("{optimizer: sgd, trl: {optim_args: 'nesterov=1'}}", "optim_args", "true or false"),
        ("trl: {run_name: a}", "run_name", "trackers"),
        ("{trackers: [wandb], trl: {project: a}}", "project", "trackio"),
        ("{schedule: cosine_with_min_lr}", "lr_scheduler_kwargs", "needs one"),
        (
            "{schedule: cosine_with_min_lr, "
            "trl: {lr_scheduler_kwargs: {min_lr: 0, min_lr_rate: 0}}}",
            "lr_scheduler_kwargs",
            "takes one",
        ),
        (
            "{schedule: cosine_with_min_lr, trl: {lr_scheduler_kwargs: {min_lr: 0.1}}}",
            "lr_scheduler_kwargs.min_lr",
            "not below",
        ),
        ("{schedule: polynomial, learning_rate: 1.0e-8}", "lr_scheduler_kwargs", "lr_end"),
        ("{schedule: warmup_stable_decay}", "lr_scheduler_kwargs", "num_decay_steps"),
        (
            "{schedule: cosine, trl: {lr_scheduler_kwargs: {num_cycles: true}}}",
            "lr_scheduler_kwargs.num_cycles",
            "a number",
        ),
    ],
)
def test_bad_values_are_one_line_in_check(
    tmp_path: Path, training: str, path: str, word: str
) -> None:
    ((got, message, hint),) = found(tmp_path, training)
    assert (got, word in message) == (path, True), (got, message)
    assert hint


def test_schedules_are_transformers() -> None:
    """Names and arguments; each can be built with the least it takes."""
    import torch
    from transformers import get_scheduler
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    least: dict[str, dict[str, Any]] = {
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 2},
    }
    ignored = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    names = Config.model_fields["training"].annotation.model_fields["schedule"]  # type: ignore[union-attr]
    assert set(schedules.TAKES) == set(names.annotation.__args__)
    for name, takes in schedules.TAKES.items():
        function = TYPE_TO_SCHEDULER_FUNCTION[name]
        assert set(takes) == set(inspect.signature(function).parameters) - ignored, name
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        kwargs = least.get(name, {})
        assert not list(schedules.problems(name, kwargs, 1.0))
        get_scheduler(name, optimizer, 2, 8, scheduler_specific_kwargs=kwargs)
        num_steps, from_zero = schedules.warmup(name, 0.25, 8, kwargs)
        assert num_steps == (0 if name == "constant" else 2)
        assert from_zero == (optimizer.param_groups[0]["lr"] == 0), name


def result(config: Config) -> tuple[bytes, list[dict[str, Any]]]:
    folder = train.run(config).folder
    return (folder.adapter / "adapter_model.safetensors").read_bytes(), list(folder.read_metrics())


SGD = {"optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
MIN = {"schedule": "cosine_with_min_lr", "trl": {"lr_scheduler_kwargs": {"min_lr_rate": 0.0}}}


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [
        ({}, "adam_beta1", 0.5),
        ({}, "adam_beta2", 0.5),
        ({}, "adam_epsilon", 0.01),
        (SGD, "optim_args", "momentum=0.9"),
        (MIN, "lr_scheduler_kwargs", {"min_lr_rate": 0.9}),
    ],
)
def test_allowed_fields_change_the_adapter(
    make_config: Callable[..., Config], tmp_path: Path, base: dict[str, Any], field: str, value: Any
) -> None:
    settings = {"max_steps": 3, "batch_size": 4, **base}
    without, _ = result(make_config(12, **settings))
    trl = {"trl": {**base.get("trl", {}), field: value}}
    with_it, _ = result(make_config(12, **{**settings, **trl, "output": str(tmp_path / "b")}))
    assert with_it != without


def test_allowed_fields_change_what_is_logged_and_nothing_else(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    common = {"max_steps": 4, "batch_size": 2, "logging_steps": 4, "eval_steps": 1}
    adapter, lines = result(make_config(12, 4, **common))
    trl = {"logging_first_step": True, "eval_delay": 3, "torch_empty_cache_steps": 1}
    config = make_config(12, 4, **common, trl=trl, output=str(tmp_path / "b"))
    adapter_b, lines_b = result(config)
    assert adapter_b == adapter
    assert [line["step"] for line in lines if "loss" in line] == [4]
    assert [line["step"] for line in lines_b if "loss" in line] == [1, 4]
    assert [line["step"] for line in lines_b if "eval_loss" in line][-2:] == [3, 4]
    assert 1 not in [line["step"] for line in lines_b if "eval_loss" in line]


def test_names_reach_the_trackers() -> None:
    training = {"trackers": ["trackio"], "trl": {"run_name": "first", "project": "shop"}}
    config = Config.model_validate({"training": {**training, "gradient_checkpointing": False}})
    assert not list(trl_fields.problems(config.training))
    args = sft_config(
        config.model_copy(
            update={"training": config.training.model_copy(update={"optimizer": "adamw_torch"})}
        ),
        Device.CPU,
        Path("x"),
        evaluates=False,
    )
    assert (args.run_name, args.project) == ("first", "shop")


def test_a_resumed_run_is_the_same_run(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """With all fields that change the steps."""
    trl = {
        "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.2}, "torch_empty_cache_steps": 2,
    }  # fmt: skip
    config = make_config(
        12, max_steps=4, batch_size=2, save_steps=2, schedule="cosine_with_min_lr", trl=trl
    )
    adapter, lines = result(config)
    folder = RunFolder(Path(config.training.output))
    shutil.rmtree(folder.adapter)
    shutil.rmtree(folder.checkpoints / "checkpoint-4")
    train.run(config, start=Start.RESUME)
    assert (folder.adapter / "adapter_model.safetensors").read_bytes() == adapter
    losses = [line["loss"] for line in folder.read_metrics() if "loss" in line]
    assert losses == [line["loss"] for line in lines if "loss" in line]
