"""What is released: contents of wheel and sdist, versions in one place, hooks equal to CI."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def test_wheel_and_sdist_hold_the_package() -> None:
    """Every asset, the catalogue and py.typed; no tests in the wheel, nothing generated."""
    command = [sys.executable, str(ROOT / "tools" / "check_release.py"), "--contents"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "contents as expected" in result.stdout


def test_every_dependency_has_a_lower_bound_and_a_tested_version() -> None:
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    extras = PROJECT["optional-dependencies"]["dev"]
    for requirement in (*PROJECT["dependencies"], *extras):
        found = NAME.match(requirement)
        assert found is not None and found[0].lower() in pinned, requirement
        assert ">=" in requirement or requirement.startswith("types-"), requirement


def test_hooks_are_those_of_make_lint() -> None:
    """Both call the tools of `.venv`: one version, one configuration."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = {hook["entry"].split()[0] for hook in hooks[0]["hooks"]}
    assert entries == {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/python"}
    lint = (ROOT / "Makefile").read_text("utf-8").split("\nlint:")[1].split("\n\n")[0]
    assert re.findall(r"\$\(BIN\)/(\w+(?: \w+)?)", lint) == ["ruff check", "ruff format", "mypy"]


def test_the_image_gets_what_it_copies() -> None:
    """Every path that `.dockerignore` lets through is there, and the Dockerfile's script too."""
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    ]
    assert all((ROOT / name).exists() for name in allowed)
    named = re.findall(r"/opt/lorawright/(\S+\.sh)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert named and set(named) <= set(allowed)
