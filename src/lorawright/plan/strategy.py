"""Devices and memory → how many processes a run has, and how they divide the work.

none    one process
ddp     every process holds the model; gradients are averaged
zero1   + optimizer states divided       zero2   + gradients divided
zero3   + weights divided                fsdp2   the same, by PyTorch itself
"""

from __future__ import annotations

import os

from lorawright.config.schema import DistributedSettings, Strategy
from lorawright.errors import ConfigError
from lorawright.hardware import Device, Hardware
from lorawright.i18n import units
from lorawright.plan.estimate import Memory
from lorawright.plan.setting import Setting

DEEPSPEED = {Strategy.ZERO1: 1, Strategy.ZERO2: 2, Strategy.ZERO3: 3}


def num_processes(settings: DistributedSettings, hardware: Hardware) -> Setting[int]:
    """Processes over all machines.

    Raises:
        ConfigError: More than there are GPUs, or a number that the machines cannot share.
    """
    machines = settings.num_machines
    if settings.machine_rank >= machines:
        raise ConfigError(
            f"`distributed.machine_rank` is {settings.machine_rank}, expected less than "
            f"`distributed.num_machines`, {machines}",
            where="distributed.machine_rank",
            hint="machines count from 0",
        )
    wanted = settings.num_processes
    if wanted == "auto":
        each = f" on each of {machines} machines" if machines > 1 else ""
        return Setting(hardware.num_devices * machines, _found(hardware) + each)
    if wanted % machines:
        raise ConfigError(
            f"`distributed.num_processes` is {wanted}, which {machines} machines cannot share "
            "equally",
            where="distributed.num_processes",
            hint=f"it counts over all machines; write a multiple of {machines}, or auto",
        )
    if hardware.device is not Device.CPU and wanted // machines > hardware.num_devices:
        raise ConfigError(
            f"`distributed.num_processes` is {wanted}, {wanted // machines} on this machine, "
            f"which has {_found(hardware)}",
            where="distributed.num_processes",
            hint="one process a GPU: write auto, or make more GPUs visible",
        )
    return Setting(wanted)


def _found(hardware: Hardware) -> str:
    if hardware.device is Device.CPU:
        return "one process: no GPU is visible"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    note = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    if hardware.num_devices == 1:
        return f"1 visible GPU{note}"
    return f"{hardware.num_devices} visible GPUs{note}"


def choose(
    settings: DistributedSettings, processes: int, needed: Memory | None, usable_bytes: int
) -> Setting[Strategy]:
    """The strategy, `auto` settled by what a process must hold.

    Args:
        settings: As written.
        processes: Over all machines.
        needed: By a process; None where it is not known.
        usable_bytes: Of a process's memory.

    Raises:
        ConfigError: A strategy that does not go with the number of processes.
    """
    if settings.strategy is not Strategy.AUTO:
        _refuse_impossible(settings.strategy, processes)
        return Setting(settings.strategy)
    if processes == 1:
        return Setting(Strategy.NONE, "one process")
    if needed is None:
        return Setting(Strategy.DDP, "the model's sizes are unknown")
    held = f"a process holds {units.size(needed.total)} of {units.size(usable_bytes)}"
    if needed.total <= usable_bytes:
        return Setting(Strategy.DDP, held)
    states = needed.adapter * (processes - 1) // (2 * processes)  # two of four are Adam's moments
    if needed.total - states <= usable_bytes:
        return Setting(Strategy.ZERO1, f"{held}; with optimizer states divided it fits")
    return Setting(Strategy.ZERO3, f"{held}: the weights are divided")


def _refuse_impossible(strategy: Strategy, processes: int) -> None:
    if strategy is Strategy.NONE and processes > 1:
        raise ConfigError(
            f"`distributed.strategy` is `none`, and there are {processes} processes",
            where="distributed.strategy",
            hint="write auto or ddp, or `distributed.num_processes: 1`",
        )
    if strategy in (Strategy.DDP, Strategy.FSDP2) and processes == 1:
        raise ConfigError(
            f"`distributed.strategy` is `{strategy}`, and there is one process",
            where="distributed.strategy",
            hint="write auto, or set `distributed.num_processes`",
        )
