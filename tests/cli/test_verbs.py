"""The command line in process: exit codes, one-line errors, JSON contracts, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import rows, write_jsonl

from lorawright import hub
from lorawright.cli import run
from lorawright.data import Reader  # noqa: F401 # loaded before the cwd changes

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config that trains tiny for two steps."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data" / "train.jsonl", rows(12))
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny, dtype: float32}\n"
        "data: {train: data/train.jsonl}\n"
        "training: {output: run, max_steps: 2, trackers: []}\n"
    )
    return tmp_path


def test_help_lists_the_verbs(capsys: Capture) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("quickstart", "check", "inspect", "plan", "train", "chat", "doctor"):
        assert verb in text


@pytest.mark.parametrize("arguments", [["nonsense"], ["train"], ["train", "c.yaml", "--nope"]])
def test_wrong_command_lines_exit_2(arguments: list[str], capsys: Capture) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_main_job(project: Path, capsys: Capture) -> None:
    """check → inspect → plan → dry run → train → chat, as a user would."""
    assert run(["check", "c.yaml", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["ok"] and checked["problems"] == [] and checked["stats"]["num_chats"] == 12
    assert run(["inspect", "c.yaml", "--json", "-n", "0"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 12
    assert all(len(row["ids"]) == len(row["trained"]) for row in shown)
    assert run(["inspect", "c.yaml", "-n", "1"]) == 0
    assert "⟦" in capsys.readouterr().out
    assert run(["plan", "c.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_steps"] == 2 and plan["num_chats"] == 12
    assert run(["train", "c.yaml", "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert dry["lora_config"]["r"] == 8 and dry["sft_config"]["learning_rate"] == 2e-5
    assert not Path("run").exists()
    assert run(["train", "c.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_steps"] == 2
    assert run(["chat", "run", "--prompt", "Who are you?", "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out.strip()
    assert run(["chat", "run", "--prompt", "Who are you?", "--base"]) == 0
    assert "Tiny" in capsys.readouterr().out
    assert run(["train", "c.yaml"]) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_inspect_writes_a_page(project: Path, capsys: Capture) -> None:
    assert run(["inspect", "c.yaml", "--html", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert '<span class="t"' in page and "http:" not in page and "https:" not in page
    assert run(["inspect", "c.yaml", "--html", "no/such/folder.html"]) == 1
    assert "no/such/folder.html: cannot be written" in capsys.readouterr().err


def test_check_lists_config_and_data_errors_together(project: Path, capsys: Capture) -> None:
    Path("data/train.jsonl").write_text('{"messages": [{"role": "assistent", "content": "x"}]}\n')
    assert run(["check", "c.yaml", "--json", "--set", "training.sede=1"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert not answer["ok"]
    kinds = {(problem["kind"], problem["line"]) for problem in answer["problems"]}
    assert {("config", None), ("shape", 1)} <= kinds


def test_init_passes_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "mine", "--model", "tiny"]) == 0
    assert run(["check", "mine/config.yaml"]) == 0, capsys.readouterr().err
    assert run(["init", "mine"]) == 1
    assert "is there already" in capsys.readouterr().err


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["recipes"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"qwen2.5-0.5b-lora", "qwen2.5-1.5b-lora", "qwen2.5-7b-lora"} <= set(names)
    assert {"qwen2.5-7b-qlora", "qwen2.5-14b-qlora"} <= set(names)
    assert run(["recipes", names[0], "c.yaml"]) == 0 and Path("c.yaml").is_file()
    assert run(["recipes", names[0], "c.yaml"]) == 2
    assert run(["recipes", "qwen-7b"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_doctor(capsys: Capture) -> None:
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] and facts["hardware"]["device"]


def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """The whole of it; the tuned model knows the shop."""
    monkeypatch.chdir(tmp_path)
    assert run(["quickstart"]) == 0
    text = capsys.readouterr().out
    assert "Mira" in text and Path("quickstart/run/adapter/adapter_model.safetensors").is_file()
    assert run(["quickstart"]) == 0, "a second time begins anew"


def tiny_with(folder: Path, change: Callable[[Path], None]) -> str:
    shutil.copytree(hub.model_folder("tiny"), folder)
    change(folder)
    return str(folder)


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _unprovable(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


MODELS: list[tuple[Any, str]] = [
    (_no_template, "has no chat template"),
    (_unprovable, "cannot be proven"),
    (_no_config, "without config.json"),
    (_adapter, "is a LoRA adapter"),
    (_no_weights, "cannot be loaded"),
]


@pytest.mark.parametrize(
    ("change", "what"), MODELS, ids=lambda value: getattr(value, "__name__", "")
)
def test_bad_models(project: Path, change: Any, what: str, capsys: Capture) -> None:
    name = tiny_with(project / "model", change)
    assert run(["train", "c.yaml", "--set", f"model.name={name}"]) == 1
    error = capsys.readouterr().err
    assert what in error and "hint:" in error and "Traceback" not in error
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["./none", "Nobody/no-such-model", "a/b/c"])
def test_unknown_models(project: Path, name: str, capsys: Capture) -> None:
    assert run(["train", "c.yaml", "--set", f"model.name={name}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}: ") and "hint:" in error
    assert not Path("run").exists()


def _missing(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _not_utf8(path: Path) -> None:
    path.write_bytes(b'{"messages": "\xff"}\n')


def _half_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _number_for_text(path: Path) -> None:
    path.write_text('{"messages": [{"role": "user", "content": 7}]}\n')


def _ten_megabytes(path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x" * 10_000_000}, {"role": "assistant"}]}
    path.write_text(json.dumps(row) + "\n")


DATA = [_missing, _empty, _not_utf8, _half_a_line, _number_for_text, _ten_megabytes]


@pytest.mark.parametrize("change", DATA, ids=lambda change: change.__name__)
def test_bad_data(project: Path, change: Callable[[Path], None], capsys: Capture) -> None:
    """One short error with the file's name, exit 1, no folder left."""
    change(project / "data" / "train.jsonl")
    assert run(["train", "c.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: data/train.jsonl") and "hint:" in error
    assert len(error) < 800 and "Traceback" not in error
    assert not Path("run").exists()


def test_folder_without_data(project: Path, capsys: Capture) -> None:
    (project / "data" / "train.jsonl").rename(project / "data" / "train.md")
    assert run(["check", "c.yaml", "--set", "data.train=data"]) == 1
    assert "error: data: is a folder without data files" in capsys.readouterr().err


def test_a_folder_of_runs_names_them(project: Path, capsys: Capture) -> None:
    for name in ("runs/a", "runs/b"):
        assert run(["train", "c.yaml", "--set", f"training.output={name}"]) == 0
    capsys.readouterr()
    for verb in (["chat", "runs"], ["merge", "runs"], ["evaluate", "runs"], ["chat", "runs/c"]):
        assert run(verb) == 1
        assert "did you mean `runs/a`, `runs/b`?" in capsys.readouterr().err


def test_a_folder_for_a_config_names_the_configs(project: Path, capsys: Capture) -> None:
    assert run(["train", "."]) == 2
    assert "did you mean `c.yaml`?" in capsys.readouterr().err
    assert run(["train", "data"]) == 2
    error = capsys.readouterr().err
    assert "config.yaml" not in error and "lorawright init DIR" in error


def test_a_project_is_no_run_and_nothing_is_written_into_it(project: Path, capsys: Capture) -> None:
    """Its config.yaml is not a run's; the runs inside are named."""
    (project / "c.yaml").rename(project / "config.yaml")
    (project / "report.html").write_text("mine")
    inside = project / "runs" / "a"
    inside.mkdir(parents=True)
    (inside / "environment.json").write_text("{}")
    for verb in (["report", "."], ["chat", "."], ["evaluate", "."], ["merge", "."]):
        assert run(verb) == 1
        error = capsys.readouterr().err
        assert "error: .: holds no run" in error and "did you mean `runs/a`?" in error
    assert (project / "report.html").read_text() == "mine"


def test_a_misspelt_config_names_those_beside_it(project: Path, capsys: Capture) -> None:
    assert run(["train", "cc.yaml"]) == 2
    assert "did you mean `c.yaml`?" in capsys.readouterr().err


ODD = [
    (["recipes", "qwen2.5-0.5b-lora", "no/such/c.yaml"], 2, "no/such/c.yaml: cannot be written"),
    (["recipes", "qwen2.5-0.5b-lora", "data"], 2, "data: is there already"),
    (["init", "c.yaml"], 1, "c.yaml: cannot be written"),
    (["inspect", "c.yaml", "--split", "test"], 2, "--split: is `test`, expected train or eval"),
    (["inspect", "c.yaml", "--html", "data"], 1, "data: cannot be written"),
    (["chat", ""], 1, "RUN: is empty"),
    (["chat", "c.yaml"], 1, "c.yaml: is a file, expected the folder of a run"),
    (["eject", "c.yaml", "-o", "data"], 1, "data: is not empty"),
    (["push", "none", "a/b", "--dry-run"], 1, "none: no such run"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), ODD, ids=lambda v: str(v)[:50])
def test_odd_places(
    project: Path, arguments: list[str], code: int, words: str, capsys: Capture
) -> None:
    assert run(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}") and "\n\nhint: " in error


def test_one_problem_has_the_form_of_an_error(project: Path, capsys: Capture) -> None:
    write_jsonl(project / "data" / "train.jsonl", [*rows(3), {"messages": []}])
    for arguments in (["check", "c.yaml"], ["train", "c.yaml"]):
        assert run(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: data/train.jsonl:4: messages ") and "\n\nhint: " in error
    assert run(["check", "c.yaml", "--set", "training.sede=1"]) == 2
    assert "  hint: did you mean `training.seed`?" in capsys.readouterr().err


@pytest.mark.parametrize("num_columns", [60, 80])
def test_help_is_never_cut(num_columns: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lorawright", "--help"], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": str(num_columns), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert "..." not in done.stdout.partition("Commands:")[2]
    assert "whether they stop" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= num_columns


@pytest.mark.parametrize("run_folder", ["none", "data"])
def test_chat_with_no_run(project: Path, run_folder: str, capsys: Capture) -> None:
    assert run(["chat", run_folder, "--prompt", "x"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {run_folder}: ")


def test_adapter_of_another_base(project: Path, capsys: Capture) -> None:
    """Other weights under the same name: refused in one line."""
    import torch
    from transformers import AutoModelForCausalLM

    base = tiny_with(project / "base", lambda folder: None)
    assert run(["train", "c.yaml", "--set", f"model.name={base}"]) == 0
    assert run(["chat", "run", "--prompt", "Hi", "--max-new-tokens", "4"]) == 0
    other = AutoModelForCausalLM.from_pretrained(base)
    torch.nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
    other.save_pretrained(base)
    capsys.readouterr()
    assert run(["chat", "run", "--prompt", "x"]) == 1
    error = capsys.readouterr().err
    assert "other weights than the base" in error and "hint:" in error
    assert "Traceback" not in error


def test_plan_probe_measures_the_first_steps(project: Path, capsys: Capture) -> None:
    """Both ways count the same tokens; the probe leaves no run folder behind."""
    assert run(["plan", "c.yaml", "--json"]) == 0
    estimated = json.loads(capsys.readouterr().out)
    assert run(["plan", "c.yaml", "--probe", "--json"]) == 0
    probed = json.loads(capsys.readouterr().out)
    assert probed["probed"] and not estimated["probed"]
    assert probed["seconds"] > 0 and probed["peak_memory_bytes"] > 100_000_000
    assert probed["num_computed_tokens"] == estimated["num_computed_tokens"] > 0
    assert not (project / "run").exists()
