"""This machine → its device, dtypes and free memory: facts that decide defaults.

Free memory is what the system has and what a container allows:

    /proc/self/cgroup   0::/a/b      ─►  /sys/fs/cgroup/a/b/memory.max, /a/memory.max, …
                        5:memory:/a  ─►  /sys/fs/cgroup/memory/a/memory.limit_in_bytes, …

A limit stands in any group above a process; inside a container the paths of the host may not
exist, the mount's top is the container's own group then.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from lorawright import hardware


class Device(StrEnum):
    """Where a model is computed."""

    CUDA = "cuda"  # an NVIDIA or AMD GPU, as torch calls both
    MPS = "mps"  # Apple's GPU
    CPU = "cpu"  # the processor


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
        return Hardware(Device.MPS, "Apple GPU", True, hardware.free_memory(), 1, threads)
    features = torch.cpu.get_capabilities()
    fast = bool(features.get("amx_bf16") or features.get("avx512_bf16") or features.get("bf16"))
    name = str(features.get("cpu_name") or "CPU")
    return Hardware(Device.CPU, name, fast, hardware.free_memory(), 1, threads)


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


ROOT = Path("/")

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files of limit and use, and the field of memory.stat that is given back when it is needed."""


def free_memory(root: Path = ROOT) -> int:
    """Bytes that can be had without swapping, and without being ended by a container.

    Args:
        root: Of the file system, for tests.
    """
    free = int(psutil.virtual_memory().available)
    for folder, names in _groups(root):
        allowed = _left(folder, names)
        if allowed is not None:
            free = min(free, allowed)
    return free


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders that may limit this process, its own first."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, names = (top / "memory", V1) if controllers else (top, V2)
        own = mount / path.lstrip("/")
        for folder in (own, *own.parents):
            yield folder, names
            if folder == mount:
                break


def _left(folder: Path, names: tuple[str, str, str]) -> int | None:
    """Bytes that a group may still take; None without a limit."""
    limit, used, given_back = names
    try:
        allowed, taken = (folder / limit).read_text(), int((folder / used).read_text())
        if not allowed.strip().isdigit():  # `max`
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(allowed) - taken + int(stat.get(given_back, 0)))
    except (OSError, ValueError):
        return None


SHORT_SPIN = {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}
"""libgomp's in turns of a loop, libiomp's in milliseconds (its default is 200)."""

CHOICES = ("OMP_WAIT_POLICY", *SHORT_SPIN)


def set_short_spin(environment: MutableMapping[str, str]) -> None:
    """Makes OpenMP's waiting threads sleep soon; whoever has set one of the variables has chosen.

    After a parallel loop the threads of libgomp count to 300,000 before they sleep. Where another
    program holds one of the cores, the thread that is still at work is the one that waits for a
    core, and the others burn theirs meanwhile: a training step took 33 s in place of 5.4 s on two
    cores of which one was taken, 12 s with a short spin, and the same 5.4 s on an idle machine
    (docs/log.md).

    libgomp and libiomp read their variables when they are loaded, with torch; nothing is started
    anew. See GCC's manual of libgomp, "GOMP_SPINCOUNT", and LLVM's of OpenMP, "KMP_BLOCKTIME".
    """
    if not any(environment.get(name) for name in CHOICES):
        environment.update(SHORT_SPIN)


def describe_spin(environment: MutableMapping[str, str]) -> str:
    """What is set, for `doctor`."""
    found = [f"{name}={environment[name]}" for name in CHOICES if environment.get(name)]
    return ", ".join(found) or "as OpenMP does by default: they spin for long"
