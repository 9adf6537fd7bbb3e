"""The allocator is chosen by facts and set once, by the command line; nothing else changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lorawright.cli import allocator
from lorawright.cli.allocator import Facts
from lorawright.errors import ConfigError

LINUX = Facts("linux", "glibc 2.36", None, has_gpu=False, environment={})
JEMALLOC = "/usr/lib/x/libjemalloc.so.2"


def test_glibc_on_a_cpu() -> None:
    choice = allocator.choose(LINUX)
    assert set(choice.variables) == {"GLIBC_TUNABLES", allocator.DONE}
    assert "glibc 2.36" in choice.reason


def test_jemalloc_where_it_is_installed() -> None:
    choice = allocator.choose(replace(LINUX, jemalloc=JEMALLOC))
    assert choice.variables["LD_PRELOAD"] == JEMALLOC
    assert "dirty_decay_ms:-1" in choice.variables["MALLOC_CONF"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(LINUX, has_gpu=True), "a GPU trains"),
        (replace(LINUX, platform="darwin", libc=""), "darwin"),
        (replace(LINUX, libc=""), "neither glibc nor jemalloc"),
        (replace(LINUX, environment={"LORAWRIGHT_ALLOCATOR": "keep"}), "keep"),
        (replace(LINUX, environment={"LD_PRELOAD": "/lib/mine.so"}), "LD_PRELOAD"),
        (replace(LINUX, environment={"GLIBC_TUNABLES": "glibc.cpu.x=1"}), "GLIBC_TUNABLES"),
        (replace(LINUX, jemalloc=JEMALLOC, environment={"MALLOC_ARENA_MAX": "1"}), "ARENA"),
    ],
)
def test_left_alone(facts: Facts, reason: str) -> None:
    choice = allocator.choose(facts)
    assert not choice.variables and reason in choice.reason


def test_never_twice() -> None:
    first = allocator.choose(LINUX)
    second = allocator.choose(replace(LINUX, environment=first.variables))
    assert not second.variables and "glibc 2.36" in second.reason


def test_a_switch_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="`jemaloc`"):
        allocator.choose(replace(LINUX, environment={"LORAWRIGHT_ALLOCATOR": "jemaloc"}))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train c.yaml", True),
        ("--traceback train c.yaml --json", True),
        ("plan c.yaml --probe", True),
        ("plan c.yaml", False),
        ("train --help", False),
        ("train c.yaml --dry-run", False),
        ("check train", False),
        ("", False),
    ],
)
def test_which_commands(line: str, expected: bool) -> None:
    assert allocator.trains(line.split()) is expected


PROBE = """
import json, os, sys
print(json.dumps({
    "pid": os.getpid(), "argv": sys.argv[1:], "tunables": os.environ.get("GLIBC_TUNABLES"),
    "done": os.environ.get("LORAWRIGHT_ALLOCATOR_SET"),
    "stdin": sys.stdin.read() if os.environ.get("LORAWRIGHT_ALLOCATOR_SET") else None,
}), flush=True)
from lorawright.cli import allocator
allocator.restart_if_useful(sys.argv[0], sys.argv[1:])
sys.exit(7)
"""


def started(script: Path, *arguments: str, **environment: str) -> list[dict[str, object]]:
    """What each life of a process says of itself; it ends with exit code 7."""
    script.write_text(PROBE)
    clean = {k: v for k, v in os.environ.items() if k not in allocator.CHOICES}
    result = subprocess.run(
        [sys.executable, str(script), *arguments],
        input="a line",
        capture_output=True,
        text=True,
        env={**clean, "CUDA_VISIBLE_DEVICES": "", **environment},
    )
    assert result.returncode == 7, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_command_starts_itself_once(tmp_path: Path) -> None:
    """Same process id, arguments, input and exit code; the variables are there."""
    lives = started(tmp_path / "lorawright", "train", "a b.yaml", "--set", "x=1")
    if not allocator.choose(replace(allocator.detect(), environment={})).variables:
        assert len(lives) == 1, "nothing to set on this machine"
        return
    first, second = lives
    assert first["pid"] == second["pid"] and first["argv"] == second["argv"]
    assert first["done"] is None and second["done"] and second["stdin"] == "a line"


@pytest.mark.parametrize(
    ("name", "verb", "environment"),
    [
        ("lorawright", "check", {}),
        ("someone_elses.py", "train", {}),
        ("lorawright", "train", {"LORAWRIGHT_ALLOCATOR": "keep"}),
        ("lorawright", "train", {"GLIBC_TUNABLES": "glibc.malloc.check=0"}),
    ],
)
def test_no_second_start(tmp_path: Path, name: str, verb: str, environment: dict[str, str]) -> None:
    assert len(started(tmp_path / name, verb, **environment)) == 1


def test_a_wrong_switch_is_a_wrong_command_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "lorawright", "train", "c.yaml"],
        capture_output=True,
        text=True,
        env={**os.environ, "LORAWRIGHT_ALLOCATOR": "on"},
    )
    assert result.returncode == 2 and "expected auto or keep" in result.stderr
