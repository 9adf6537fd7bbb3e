"""Resolved config → fields of TRL's `SFTConfig`; what our trainer and a plain script share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorawright.config.schema import Config, Dtype, Strategy
from lorawright.hardware import Device
from lorawright.training import trackers


def shared(config: Config, device: Device) -> dict[str, Any]:
    """Fields that mean the same to our trainer and to TRL's own.

    Args:
        config: Without `auto`.
        device: Where training happens.
    """
    training = config.training
    return {
        "num_train_epochs": 1,  # the steps, or chats, of all epochs stand in one list
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": str(training.schedule),
        "warmup_steps": training.warmup_ratio,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": training.optimizer,
        "activation_checkpointing": bool(training.gradient_checkpointing),
        "logging_strategy": "steps",
        "logging_steps": training.logging_steps,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "seed": training.seed,
        "fp16": config.model.dtype is Dtype.FLOAT16,
        "use_cpu": device is Device.CPU,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def planned(config: Config, device: Device, output: Path, evaluates: bool) -> dict[str, Any]:
    """Fields of a run whose batches are planned steps.

    Args:
        config: Without `auto`.
        device: Where training happens.
        output: Folder of the checkpoints.
        evaluates: Whether there is an evaluation set.
    """
    training = config.training
    return {
        "output_dir": str(output),
        **shared(config, device),
        "gradient_accumulation_steps": 1,  # a planned step is one batch, with all its passes
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": training.eval_steps if evaluates else None,
        "report_to": list(training.trackers),
        **trackers.names(training),
        "data_seed": config.data.seed,
        "bf16": config.model.dtype is Dtype.BFLOAT16 and not own_autocast(config),
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "no",
        "ddp_find_unused_parameters": False,  # every pass reaches every adapter
    }


def own_autocast(config: Config) -> bool:
    """DeepSpeed and FSDP would make the adapter bfloat16, or compute it in other places."""
    replaced = config.distributed.strategy not in (Strategy.NONE, Strategy.DDP)
    return config.model.dtype is Dtype.BFLOAT16 and replaced
