"""`import lorawright`: light, complete, and the guide's code does what the guide says."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import lorawright
from lorawright import types
from lorawright.cli import run as command_line
from lorawright.config import Config
from lorawright.config.load import ConfigProblems
from lorawright.training.train import Start

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"
FUNCTIONS = ["chat", "check", "evaluate", "export", "load_config", "merge", "train"]


def test_dir_is_the_manual() -> None:
    assert [name for name in dir(lorawright) if name.islower() and name[0] != "_"] == FUNCTIONS
    for name in FUNCTIONS:
        function = getattr(lorawright, name)
        text = inspect.getdoc(function) or ""
        assert all(f"\n{part}:\n" in text for part in ("Args", "Returns", "Raises")), name
        named = re.findall(r"^    (\w+): ", text.split("Args:")[1].split("Returns:")[0], re.M)
        assert named == list(inspect.signature(function).parameters), name


def test_version_is_the_package_s() -> None:
    assert lorawright.__version__ == version("lorawright")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lorawright.nonsense


def test_rooms_do_not_hide_functions() -> None:
    """A package's submodule of the same name would take the function's place once imported."""
    code = (
        "import lorawright, importlib, pkgutil\n"
        "for room in pkgutil.iter_modules(lorawright.__path__):\n"
        "    if room.ispkg: importlib.import_module('lorawright.' + room.name)\n"
        f"assert all(callable(getattr(lorawright, name)) for name in {FUNCTIONS!r})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_overrides_are_values(tmp_path: Path) -> None:
    """Numbers, lists, paths and nothing as Python has them; all errors at once."""
    assert command_line(["init", str(tmp_path / "p"), "--model", "tiny"]) == 0
    path = tmp_path / "p" / "config.yaml"
    config = lorawright.load_config(
        path,
        {
            "training.learning_rate": 2e-5,
            "training.output": tmp_path / "run",
            "training.trackers": [],
            "data.eval": None,
        },
    )
    assert config.training.learning_rate == 2e-5
    assert config.training.output == str(tmp_path / "run")
    assert config.training.trackers == [] and config.data.eval is None
    with pytest.raises(ConfigProblems) as caught:
        lorawright.load_config(path, {"training.learning_rat": 1, "lora.rank": 0})
    assert len(caught.value.problems) == 2


def test_check_finds_problems_without_torch(tmp_path: Path) -> None:
    assert command_line(["init", str(tmp_path / "p"), "--model", "tiny"]) == 0
    chats = tmp_path / "p" / "data" / "train" / "bad.jsonl"
    chats.write_text('{"messages": []}\n')
    code = (
        "import lorawright, sys\n"
        f"problems = lorawright.check({str(tmp_path / 'p' / 'config.yaml')!r})\n"
        "assert [(p.line, str(p.severity)) for p in problems] == [(1, 'error')], problems\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_start_is_a_name_or_a_member(make_config: Callable[..., Config]) -> None:
    """A second run into the same folder is refused, and begun anew when asked."""
    config = make_config(max_steps=1, num_rows=4)
    first = lorawright.train(config)
    with pytest.raises(lorawright.LorawrightError, match="holds a run already"):
        lorawright.train(config)
    again = lorawright.train(config, start="overwrite")
    assert again.first_loss == first.first_loss
    assert lorawright.train(config, start=Start.RESUME).num_steps == 1


def test_export_names_its_targets(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="not a valid ExportTarget"):
        lorawright.export("run", "onnx")
    with pytest.raises(lorawright.LorawrightError, match="adapter_only: has no use with vllm"):
        lorawright.export("run", "vllm", adapter_only=True)
    result = lorawright.train(make_config(max_steps=1, num_rows=6, num_eval=2))
    found = lorawright.export(result, "gguf", types=["f32"])
    assert list(found) == [types.GgufType.F32]
    assert found["f32"]["mean_kl"] < 1e-6 and Path(found["f32"]["path"]).is_file()


@pytest.mark.slow
def test_the_guide_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, evaluates, merges and answers, as printed in the guide."""
    whole, error = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S)
    assert len(whole.strip().splitlines()) <= 12
    assert command_line(["init", str(tmp_path / "p"), "--model", "tiny"]) == 0
    monkeypatch.chdir(tmp_path / "p")
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps, losses, merged, answer = done.stdout.strip().split("\n", 3)
    assert int(steps.split()[0]) >= 1 and all(float(loss) > 0 for loss in losses.split())
    assert float(merged.split()[-1]) < 1e-3 and Path(merged.split()[0]).is_dir() and answer
    said = subprocess.run([sys.executable, "-c", error], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("no-such-run: no such run")
