"""Waiting threads sleep soon, unless the user has chosen; the command line sets it before torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lorawright import hardware


def test_a_short_spin_where_nobody_has_chosen() -> None:
    environment: dict[str, str] = {"HOME": "/"}
    hardware.set_short_spin(environment)
    assert environment == {"HOME": "/", **hardware.SHORT_SPIN}


@pytest.mark.parametrize("name", hardware.CHOICES)
def test_a_user_s_own_setting_stays(name: str) -> None:
    environment = {name: "7"}
    hardware.set_short_spin(environment)
    assert environment == {name: "7"}
    assert hardware.describe_spin(environment) == f"{name}=7"


PROBE = """
import os, sys
from lorawright.cli import app
app.run = lambda arguments: print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT")) or 0
sys.argv = ["lorawright", "doctor"]
app.main()
"""


def test_the_command_line_sets_it_before_torch_is_there() -> None:
    clean = {name: value for name, value in os.environ.items() if name not in hardware.CHOICES}
    ended = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, env=clean, check=True
    )
    assert ended.stdout.split() == ["False", hardware.SHORT_SPIN["GOMP_SPINCOUNT"]]
