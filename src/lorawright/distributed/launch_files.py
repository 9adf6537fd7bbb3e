"""Config → accelerate's YAML, DeepSpeed's JSON and the command that starts all processes.

    files(config, device, folder)["launch/accelerate.yaml"]
    command(config, folder)       accelerate launch … --module lorawright.training.worker …

Pure functions: nothing is written or started here. No number stands in a file that is not in the
config; batch size and accumulation are not in them at all, as the plan knows both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lorawright import hardware
from lorawright.config.schema import Config, DistributedSettings, Dtype, Strategy
from lorawright.hardware import Device
from lorawright.plan.strategy import DEEPSPEED

ACCELERATE = "accelerate.yaml"
DEEPSPEED_FILE = "deepspeed.json"
JOB = "job.json"
MODULE = "lorawright.training.worker"


def launch_folder(run: Path, settings: DistributedSettings) -> Path:
    """Where a machine's files lie; several machines may share the run folder."""
    several = settings.num_machines > 1
    return run / "launch" / (f"machine-{settings.machine_rank}" if several else "")


def is_launched(config: Config) -> bool:
    """Whether a resolved config needs accelerate: more than one process, or DeepSpeed."""
    return config.distributed.strategy is not Strategy.NONE


def peak_memory_bytes(config: Config) -> int | None:
    """What training held at most in this process; None where it started others, which held it."""
    return None if is_launched(config) else hardware.peak_memory_bytes()


def files(config: Config, device: Device, folder: Path) -> dict[Path, str]:
    """Path → text of every file that accelerate and DeepSpeed read; none for one process.

    Args:
        config: Resolved.
        device: Of this machine.
        folder: From `launch_folder`.
    """
    if not is_launched(config):
        return {}
    found = {folder / ACCELERATE: yaml.safe_dump(_accelerate(config, device, folder))}
    if config.distributed.strategy in DEEPSPEED:
        found[folder / DEEPSPEED_FILE] = json.dumps(deepspeed(config), indent=2) + "\n"
    return found


def command(folder: Path) -> list[str]:
    """What starts the processes of this machine."""
    return [
        "accelerate", "launch", "--config_file", str(folder / ACCELERATE),
        "--module", MODULE, str(folder / JOB),
    ]  # fmt: skip


def environment(config: Config, folder: Path) -> dict[str, str]:
    """What `accelerate launch` would tell processes that torchrun has started."""
    found = {"ACCELERATE_MIXED_PRECISION": "no"}
    if config.distributed.strategy in DEEPSPEED:
        return found | {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(folder / DEEPSPEED_FILE),
            "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        }
    if config.distributed.strategy is Strategy.FSDP2:
        found["ACCELERATE_USE_FSDP"] = "true"
        for name, value in _fsdp(config.distributed).items():
            found[name.upper()] = value if isinstance(value, str) else str(value).lower()
    return found


def _fsdp(settings: DistributedSettings) -> dict[str, Any]:
    return {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_reshard_after_forward": True,
        "fsdp_cpu_ram_efficient_loading": False,
        "fsdp_offload_params": settings.offload_parameters,
        "fsdp_state_dict_type": "FULL_STATE_DICT",  # SHARDED would save no adapter
        "fsdp_activation_checkpointing": False,
    }


def _accelerate(config: Config, device: Device, folder: Path) -> dict[str, Any]:
    settings = config.distributed
    found: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "num_machines": settings.num_machines,
        "num_processes": settings.num_processes,
        "machine_rank": settings.machine_rank,
        "main_training_function": "main",
        "rdzv_backend": "static",
        "same_network": True,
    }
    if settings.num_machines > 1:
        found["main_process_ip"] = settings.main_address
        found["main_process_port"] = settings.main_port
    if settings.strategy in DEEPSPEED:
        return found | {
            "distributed_type": "DEEPSPEED",
            "deepspeed_config": {
                "deepspeed_config_file": str(folder / DEEPSPEED_FILE),
                "zero3_init_flag": False,
                "deepspeed_multinode_launcher": "standard",  # the default, pdsh, needs ssh
            },
        }
    if settings.strategy is Strategy.FSDP2:
        return found | {
            "distributed_type": "FSDP",
            "mixed_precision": "no",  # autocast is our trainer's, the same for every strategy
            "fsdp_config": _fsdp(settings),
        }
    # MULTI_CPU would start a single process (accelerate 1.15 wants mpirun for it)
    return found | {
        "distributed_type": "MULTI_GPU",
        "mixed_precision": "no",
        "use_cpu": device is Device.CPU,
    }


def deepspeed(config: Config) -> dict[str, Any]:
    """DeepSpeed's JSON.

    Its bfloat16 mode stays off: it would make the adapter bfloat16. Our autocast computes in
    bfloat16, weights and gradients of the adapter stay float32.
    """
    settings, training = config.distributed, config.training
    stage = DEEPSPEED[settings.strategy]
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = 0
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if settings.offload_parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": False}
    return {
        "train_micro_batch_size_per_gpu": 1,  # a planned step is one batch
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "fp16": {"enabled": config.model.dtype is Dtype.FLOAT16},
        "bf16": {"enabled": False},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
    }
