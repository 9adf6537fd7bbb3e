"""What this machine has: facts that decide defaults, in one place so that tests can fake them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from enum import StrEnum


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
    """

    device: Device
    name: str
    bfloat16: bool
    memory_bytes: int
    num_devices: int
    num_threads: int


def detect() -> Hardware:
    """Asks torch; imports it."""
    import torch

    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Hardware(
            Device.CUDA,
            torch.cuda.get_device_name(),
            torch.cuda.is_bf16_supported(including_emulation=False),
            free,
            torch.cuda.device_count(),
            threads,
        )
    if torch.backends.mps.is_available():
        return Hardware(Device.MPS, "Apple GPU", True, _free_memory(), 1, threads)
    features = torch.cpu.get_capabilities()
    fast = bool(features.get("amx_bf16") or features.get("avx512_bf16") or features.get("bf16"))
    name = str(features.get("cpu_name") or "CPU")
    return Hardware(Device.CPU, name, fast, _free_memory(), 1, threads)


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


def _free_memory() -> int:
    """Bytes that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass  # not Linux
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.8)


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
