"""Odd places to be called from: pipes that close, poor encodings, no current folder, brackets."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import rows, write_jsonl

from lorawright.cli import console, run

Capture = pytest.CaptureFixture[str]
CLI = Path(__file__).parents[2] / "src" / "lorawright" / "cli"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    last = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！我是小赖 😀"},
    ]
    write_jsonl(tmp_path / "data" / "训练.jsonl", [*rows(12), {"messages": last}])
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny, dtype: float32}\n"
        "data: {train: data/训练.jsonl}\n"
        "training: {output: run, max_steps: 2, trackers: []}\n",
        encoding="utf-8",
    )
    return tmp_path


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash with `lorawright` for this Python's."""
    called = f'lorawright() {{ "{sys.executable}" -m lorawright "$@"; }}\nset -o pipefail\n'
    return subprocess.run(
        ["bash", "-c", called + command], capture_output=True, env={**os.environ, **variables}
    )


@pytest.mark.parametrize(
    "command",
    [
        "lorawright inspect c.yaml -n 0 --json | head -n 1",
        "lorawright inspect c.yaml -n 0 | head -n 1",
        "lorawright recipes | true",
        "lorawright --help | true",
    ],
)
def test_a_reader_that_has_enough(project: Path, command: str) -> None:
    write_jsonl(project / "data" / "训练.jsonl", rows(1500))  # more than a pipe holds
    done = shell(command)
    assert done.stderr == b"" and done.returncode in (0, 1)


def test_closed_streams(project: Path) -> None:
    done = shell("lorawright check c.yaml >&-")
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert shell("lorawright check c.yaml >&- 2>&-").returncode == 0


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "gbk"},
    ],
)
def test_poor_encodings(project: Path, variables: dict[str, str]) -> None:
    """Letters are escaped rather than refused; JSON stays JSON in UTF-8."""
    shown = shell("lorawright inspect c.yaml -n 0", **variables)
    assert shown.returncode == 0 and shown.stderr == b""
    found = shell("lorawright inspect c.yaml -n 0 --json", **variables)
    last = json.loads(found.stdout.splitlines()[-1])
    assert "我是小赖 😀" in last["text"] and last["file"].endswith("训练.jsonl")


def test_the_current_folder_is_gone(project: Path) -> None:
    done = shell("mkdir gone; cd gone; rmdir ../gone; lorawright check ../c.yaml")
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: the current folder has been removed\n\nhint: ")


NAMES = ["[bold]d[/bold]", "a[/b]", "[red]", ":bug:", "[link=x]y[/link]", "[[x]]", "\\[x]"]


@pytest.mark.parametrize("name", NAMES)
def test_brackets_in_names_are_shown(project: Path, name: str, capsys: Capture) -> None:
    """In results, remarks and errors: as they are on disk."""
    path = f"{name}/{name}.jsonl"
    write_jsonl(project / path, [*rows(3), {"messages": []}])
    rest = ["--set", f"data.train={json.dumps(name)}"]
    assert run(["check", "c.yaml", *rest]) == 1
    shown = capsys.readouterr()
    assert path in shown.out and f"error: {path}:4: " in shown.err
    assert run(["inspect", "c.yaml", "-n", "1", *rest]) == 1
    assert f"{path}:1  " in capsys.readouterr().out
    assert run(["inspect", "c.yaml", "--html", f"{name}.html", *rest]) == 1
    assert f"{name}.html" in capsys.readouterr().err
    assert run(["check", f"{name}.yaml"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}.yaml: no such config file")
    assert run(["chat", f"{name}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {name}: ")


def test_nothing_in_the_command_line_reads_markup() -> None:
    """Styles come from `console.lead` and `style=`: what has no syntax cannot be forged."""
    assert not any(made()._markup or made()._emoji for made in (console.out, console.err))
    for path in CLI.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich" and node.module != "rich.markup", where
                taken = {alias.name for alias in node.names}
                assert "Console" not in taken or path.name == "console.py", where
            elif isinstance(node, ast.Call):
                for keyword in node.keywords:
                    allowed = keyword.arg != "markup" or ast.unparse(keyword.value) == "False"
                    assert allowed, where
                if ast.unparse(node.func).endswith(".input"):
                    assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), where
                if ast.unparse(node.func) == "TextColumn":
                    first = node.args[0]
                    outside = ("{task.description", "{task.fields")
                    unmarked = any(k.arg == "markup" for k in node.keywords)
                    assert unmarked or not any(o in ast.unparse(first) for o in outside), where
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "[/" not in node.value, f"{where}: markup is shown as it is written"
