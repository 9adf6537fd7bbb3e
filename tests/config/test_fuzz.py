"""Odd configs: no exception but ConfigError, every problem with its address, an end in time."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_config
import pytest

from lorawright.config import Config, load_leniently
from lorawright.errors import ConfigError


@pytest.mark.parametrize("seed", range(10))
def test_odd_configs_are_problems(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "c.yaml"
    for _ in range(60):
        text, overrides = fuzz_config.made(rng)
        path.write_text(text, encoding="utf-8")
        try:
            loaded = load_leniently(path, overrides)
        except ConfigError as error:
            assert error.hint and str(error.where).startswith((str(path), "--set")), text
            assert len(str(error.what)) < 400, text
            continue
        Config.model_validate(loaded.config.model_dump())
        for problem in loaded.problems:
            assert problem.where.startswith((str(path), "--set")) and problem.hint, text
            assert len(problem.message) < 400 and "\0" not in problem.message, text
            problem.message.encode()
