"""This machine → versions of packages, system and hardware, as a run writes them down."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lorawright.hardware import Hardware

REPORTED_PACKAGES = (
    "lorawright", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers",
    "deepspeed", "bitsandbytes", "numpy", "pyarrow",
)  # fmt: skip


def environment(hardware: Hardware) -> dict[str, Any]:
    """Versions and hardware; no user names, no addresses."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": installed_versions(),
        "hardware": asdict(hardware),
        "num_cpus": os.cpu_count(),
    }


def installed_versions() -> dict[str, str | None]:
    """Version of each package that decides a run; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
