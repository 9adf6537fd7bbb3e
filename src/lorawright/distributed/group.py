"""Settings and environment → this process among the others of a run: joined and agreeing.

`accelerate` goes on alone, without a word, when a launch does not fit its expectations; after
`check_started` that cannot have happened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lorawright.config.schema import DistributedSettings, Dtype, Strategy
from lorawright.errors import TrainError
from lorawright.hardware import Device
from lorawright.plan.strategy import DEEPSPEED


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run, seen from one of them; a run in one process has the default."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Returns when all processes have called it."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.barrier()

    def highest(self, value: int) -> int:
        """The greatest of all processes' values: the same answer everywhere."""
        values: list[int] = self.gather(value)
        return max(values)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; the values are our own."""
        if self.size == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values


ALONE = Group()


def join(settings: DistributedSettings, device: Device) -> Group:
    """Meets the other processes; called before anything of Transformers is built.

    accelerate takes up the process group that it finds; made here, the group has our timeout.

    Args:
        settings: Resolved.
        device: Where training happens.

    Raises:
        TrainError: There are more or fewer than asked for.
    """
    import torch

    if settings.strategy in DEEPSPEED:
        _quiet_deepspeed(device)
    if device is Device.CUDA:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # the launcher watches the processes and is to speak first
    timeout = timedelta(seconds=settings.timeout_seconds + 60)
    torch.distributed.init_process_group(_backend(settings, device), timeout=timeout)
    size = torch.distributed.get_world_size()
    if size != settings.num_processes:
        raise TrainError(
            f"{size} processes have met, {settings.num_processes} were asked for",
            where="distributed.num_processes",
            hint="start with `lorawright train`, or give the launcher the same number",
        )
    return Group(torch.distributed.get_rank(), size)


def _backend(settings: DistributedSettings, device: Device) -> str:
    if device is not Device.CUDA:
        return "gloo"
    # FSDP gathers the adapter on the CPU
    return "cuda:nccl,cpu:gloo" if settings.strategy is Strategy.FSDP2 else "nccl"


def leave() -> None:
    """Ends the process group, if there is one."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def allow_fsdp_on_cpu(settings: DistributedSettings, device: Device) -> None:
    """Called between SFTConfig and trainer.

    accelerate 1.15 builds FSDP for GPUs only (state.py, AcceleratorState), although PyTorch does it
    on CPUs; the device stays the CPU.
    """
    if settings.strategy is not Strategy.FSDP2 or device is not Device.CPU:
        return
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def check_started(accelerator: Any, settings: DistributedSettings, device: Device) -> None:
    """Makes sure that the trainer runs as asked for.

    Args:
        accelerator: The trainer's.
        settings: Resolved.
        device: Where training is to happen.

    Raises:
        TrainError: It does not.
    """
    found = {
        "strategy": strategy_of(accelerator),
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
    }
    wanted = {
        "strategy": settings.strategy,
        "num_processes": settings.num_processes,
        "device": device.value,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise TrainError(
                f"training would run with {name} {found[name]}, asked for was {value}",
                where=f"process {accelerator.process_index}",
                hint="this is a fault of the launch; `lorawright train CONFIG --dry-run` prints it",
            )


@contextmanager
def loading(settings: DistributedSettings, dtype: Dtype) -> Iterator[None]:
    """While the base is loaded; ZeRO-3 divides it at once, in the numbers of its bfloat16 mode.

    That mode is off otherwise (see launch.py), and a bfloat16 base would become float32.
    """
    if settings.strategy is not Strategy.ZERO3:
        yield
        return
    from transformers.integrations.deepspeed import deepspeed_config

    mode = deepspeed_config()["bf16"]
    mode["enabled"] = dtype is Dtype.BFLOAT16
    try:
        yield
    finally:
        mode["enabled"] = False


def pass_of_a_step(accelerator: Any, model: Any, *, last: bool) -> AbstractContextManager[Any]:
    """Around one pass of a step: gradients are exchanged, or the step is made, in the last only."""
    from accelerate.utils import DistributedType

    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        # its engine exchanges and steps inside `backward` when accelerate says that it is time
        accelerator.gradient_state._set_sync_gradients(last)
        return nullcontext()
    found: AbstractContextManager[Any] = nullcontext() if last else accelerator.no_sync(model)
    return found


def strategy_of(accelerator: Any) -> Strategy:
    """What accelerate has really set up."""
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    if kind is DistributedType.DEEPSPEED:
        stage = accelerator.state.deepspeed_plugin.zero_stage
        return next(strategy for strategy, number in DEEPSPEED.items() if number == stage)
    if kind is DistributedType.FSDP:
        return Strategy.FSDP2
    return Strategy.NONE if kind is DistributedType.NO else Strategy.DDP


def _quiet_deepspeed(device: Device) -> None:
    """Few words, and no compiler where none is needed."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device is not Device.CPU:
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # a shared-memory all-reduce for CPUs that is built at first use; gloo does without it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
