"""What this machine has: facts that decide defaults, in one place so that tests can fake them."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum

from lorawright import machine


class Device(StrEnum):
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Hardware:
    """Facts about one process's machine.

    Attributes:
        device: Where the model goes.
        name: Of the device, for people.
        bfloat16: Whether matrix products in bfloat16 are done by the hardware.
        memory_bytes: What the device has free: its own memory, or the machine's.
        num_devices: Visible GPUs, 1 elsewhere.
        num_threads: CPU threads torch uses.
        capability: Of a CUDA GPU, the least of all visible ones: 75 for sm_75; 0 elsewhere.
    """

    device: Device
    name: str
    bfloat16: bool
    memory_bytes: int
    num_devices: int
    num_threads: int
    capability: int = 0


def detect() -> Hardware:
    """Asks torch; imports it."""
    import torch

    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        number = torch.cuda.device_count()
        capabilities = [torch.cuda.get_device_capability(gpu) for gpu in range(number)]
        return Hardware(
            Device.CUDA,
            torch.cuda.get_device_name(),
            torch.cuda.is_bf16_supported(including_emulation=False),
            _free_on_gpus(number),
            number,
            threads,
            min(major * 10 + minor for major, minor in capabilities),
        )
    if torch.backends.mps.is_available():
        return Hardware(Device.MPS, "Apple GPU", True, machine.free_memory(), 1, threads)
    features = torch.cpu.get_capabilities()
    fast = bool(features.get("amx_bf16") or features.get("avx512_bf16") or features.get("bf16"))
    name = str(features.get("cpu_name") or "CPU")
    return Hardware(Device.CPU, name, fast, machine.free_memory(), 1, threads)


def measure_flops(device: Device, dtype: str, rows: int, inner: int, columns: int) -> float:
    """Floating-point operations per second of one matrix product, measured for 0.2 seconds.

    Args:
        device: Where.
        dtype: A torch dtype's name.
        rows: Tokens of a pass.
        inner: Inputs of a typical layer.
        columns: Its outputs.
    """
    import torch

    left = torch.ones((rows, inner), dtype=getattr(torch, dtype), device=device.value)
    right = torch.ones((inner, columns), dtype=getattr(torch, dtype), device=device.value)

    def synchronize() -> None:
        if device is Device.CUDA:
            torch.cuda.synchronize()

    left @ right
    synchronize()
    started, num_products = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        left @ right
        synchronize()
        num_products += 1
    seconds = time.perf_counter() - started
    return 2.0 * rows * inner * columns * num_products / seconds


FREE_ON_GPUS = (
    "import torch; print(min(torch.cuda.mem_get_info(gpu)[0] "
    "for gpu in range(torch.cuda.device_count())))"
)


def _free_on_gpus(number: int) -> int:
    """Bytes that the fullest of the visible GPUs has free.

    Asking makes a CUDA context of a few hundred megabytes on each GPU asked. With one GPU this is
    the process that trains; with several the launcher would keep it all run, so another process
    asks, and ends.
    """
    import torch

    if number == 1:
        return int(torch.cuda.mem_get_info()[0])
    try:
        asked = subprocess.run(
            [sys.executable, "-c", FREE_ON_GPUS], capture_output=True, text=True, timeout=120
        )
        return int(asked.stdout)
    except (subprocess.TimeoutExpired, ValueError):  # what they have in all is known without one
        return min(torch.cuda.get_device_properties(gpu).total_memory for gpu in range(number))


def peak_memory_bytes() -> int | None:
    """The most this process has held: of the GPU's memory where it trains there, else of RAM.

    None on Windows, which has no such count in Python.
    """
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux kilobytes
