"""The rules of CONTRIBUTING.md: one-way imports, sizes, a light start, a frozen list of verbs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "lorawright"
FILES = sorted(SRC.rglob("*.py"))

# Who may import whom: a file imports only from layers below its own.
LAYERS: list[set[str]] = [
    {"errors", "types", "machine"},
    {"i18n"},
    {
        "config",
        "hardware",
        "hub",
        "prefix",
        "outcome",
        "run_shapes",
        "allocator",
        "waiting",
        "durable",
        "lock",
    },
    {"layout", "dropout", "owned", "environment", "architecture", "varlen"},
    {
        "data",
        "chat",
        "store",
        "plan",
        "estimate",
        "attention",
        "head",
        "targets",
        "lean",
        "compiled",
        "checkpoint",
        "outputs",
        "signals",
        "control",
    },
    {"strategy", "cache", "modules"},
    {"launch", "launch_script", "distributed", "supervise", "run_names"},
    {
        "model",
        "trackers",
        "resolve",
        "passes",
        "records",
        "run_folder",
        "view",
        "tool_calls",
        "prepare",
        "starter",
        "quickstart",
        "eval_chats",
        "divergence",
    },
    {"selfcheck"},
    {"trainer", "talk", "doctor", "resume", "job", "mishaps"},
    {"run_facts"},
    {"screen", "mask_page", "launcher", "report", "card", "serve"},
    {"ranks", "ready", "push", "handover", "adapter", "claim"},
    {"train", "evaluate", "merge"},
    {"probe", "export", "eject"},
    {"cli"},
    {"__main__", "__init__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def unit(path: Path) -> str:
    """The stage a file belongs to: its name, or its package's."""
    relative = path.relative_to(SRC)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                [f"lorawright.{alias.name}" for alias in node.names]
                if node.module == "lorawright"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    mine = unit(path)
    for name in imported(path):
        if not name.startswith("lorawright."):
            continue
        other = name.split(".")[1]
        if other in ("LorawrightError", "__version__") or other == mine:
            continue
        assert LAYER[other] < LAYER[mine] or mine == "__init__", f"{mine} imports {other}"


def test_only_trainer_imports_trl() -> None:
    found = {unit(path) for path in FILES if any(n.split(".")[0] == "trl" for n in imported(path))}
    assert found == {"trainer"}


def test_nobody_imports_cli() -> None:
    found = {
        unit(path) for path in FILES if any(n.startswith("lorawright.cli") for n in imported(path))
    }
    assert found <= {"cli", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_sizes(path: Path) -> None:
    """Files to 400 lines, functions to 60."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def test_run_reads_as_a_table_of_contents() -> None:
    tree = ast.parse((SRC / "train.py").read_text(encoding="utf-8"))
    run = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "run")
    assert run.end_lineno is not None and run.end_lineno - run.lineno < 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_every_module_and_public_class_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {ast.unparse(base) for base in node.bases}
            assert ast.get_docstring(node) or "StrEnum" in bases, node.name


@pytest.mark.parametrize(
    "code",
    [
        "import lorawright",
        "from lorawright.cli import run; run(['--help'])",
        "from lorawright.cli import run; run(['train', '--help'])",
        "from lorawright import prepare",
    ],
)
def test_torch_stays_unloaded(code: str) -> None:
    """Importing, help and everything `check` needs."""
    probe = f"{code}\nimport sys; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


VERBS = (
    "quickstart init recipes check inspect plan train launch_script evaluate merge export chat "
    "report push eject doctor"
)


def test_verbs_are_frozen() -> None:
    """A new verb is a decision: change this list with it."""
    from lorawright.cli import app

    verbs = [str(command.callback.__name__) for command in app.registered_commands]
    assert " ".join(verbs) == VERBS
