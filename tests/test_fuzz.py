"""A few seconds of each long fuzz of tools/fuzz.py: the same generators, the same verdicts."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import fuzz
import fuzz_case
import fuzz_runs
import pytest

from lorawright.masks import time_limit

NUM_CASES = {"data": 12, "config": 10, "rows": 8, "templates": 12}


@pytest.mark.parametrize("kind", NUM_CASES)
def test_made_up_cases_are_right_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "SECONDS", 0.5)  # endless templates are among them
    for number in range(NUM_CASES[kind]):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        case = fuzz.KINDS[kind](folder, random.Random(f"{kind}-{number}"))
        assert fuzz.judge(case, fuzz.answered(case.arguments)) == [], (kind, number)


@pytest.mark.parametrize("first", range(0, 36, 12))
def test_damaged_runs_are_reported_or_refused(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Also by `push`, which reads the adapter and the model card."""
    monkeypatch.chdir(tmp_path)
    push = ["push", "run", "a/b", "--base-model", "a/b", "--dry-run", "--json"]
    for number in range(first, first + 12):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(small_run, tmp_path / "run")
        fuzz_runs.damage(tmp_path / "run", random.Random(number))
        before = fuzz_runs.contents(tmp_path)
        for arguments in (["report", "run"], push):
            answer = fuzz.answered(arguments)
            case = fuzz_case.Case(arguments, is_json=False, afterwards=(fuzz_case.says_something,))
            assert fuzz.judge(case, answer) == [], (number, arguments)
        after = fuzz_runs.contents(tmp_path)
        after["run/report.html"] = before.get("run/report.html", "")
        assert {name: after[name] for name in before} == before
