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

ROOMS = [
    "i18n", "config", "run", "data", "masks", "report", "dataset", "plan", "model", "distributed",
    "training", "inference", "evaluation", "exporters", "api", "cli",
]  # fmt: skip
"""In the order of a run. A file imports the modules beside this list's folders, its own room, and
rooms to the left of its own."""

STRANGERS = {("masks", "data")}
"""Neighbours that do not know each other."""

DOORS = {"__init__.py": "api", "__main__.py": "cli"}
"""The root imports no room but for these two: what Python and the terminal come in by."""


def room(path: Path) -> str:
    """The room a file stands in; empty for the modules beside the rooms."""
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else ""


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
def test_imports_go_left(path: Path) -> None:
    mine = room(path)
    allowed = ROOMS[: ROOMS.index(mine) + 1] if mine else [DOORS.get(path.name)]
    for name in imported(path):
        other = name.removeprefix("lorawright.").split(".")[0]
        if name.startswith("lorawright.") and other in ROOMS:
            assert other in allowed, f"{path.relative_to(SRC)} imports {name}"
            assert (mine, other) not in STRANGERS
            assert mine != "report" or other in ("i18n", "run", "masks", "report"), name


def test_the_root_is_small() -> None:
    folders = {path.name for path in SRC.iterdir() if path.is_dir()}
    assert folders - {"assets", "__pycache__"} == set(ROOMS)
    assert len(list(SRC.glob("*.py"))) <= 6


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_lists_the_rooms(readme: str) -> None:
    """In the order in which they may import each other, after the modules beside them."""
    text = (SRC.parents[1] / readme).read_text(encoding="utf-8")
    tree = text.split("```text\nsrc/lorawright\n")[1].split("```")[0]
    entries = [line.lstrip("├└─ ").split()[0] for line in tree.splitlines()]
    modules = {path.name for path in SRC.glob("*.py")} - {"__main__.py"}
    assert {entry for entry in entries if entry.endswith(".py")} == modules
    assert [entry for entry in entries if entry.endswith("/")] == [
        f"{r}/" for r in (*ROOMS, "assets")
    ]


def test_only_trainer_imports_trl() -> None:
    found = {path for path in FILES if any(n.split(".")[0] == "trl" for n in imported(path))}
    assert found == {SRC / "training" / "trainer.py"}


def test_nobody_names_cli() -> None:
    """Not as a string either: a launcher's command would be an arrow, too."""
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    found = {path for path, text in texts.items() if "lorawright.cli" in text}
    assert {room(path) for path in found} == {"", "cli"}
    assert {path.name for path in found if not room(path)} == {"__main__.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_sizes(path: Path) -> None:
    """Files to 400 lines, functions to 60."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def test_small_helpers_live_with_their_only_user() -> None:
    """A module under 40 lines has several users, or is how the program is entered."""
    small = {p for p in FILES if len(p.read_text("utf-8").splitlines()) < 40}
    for path in small - {path for path in FILES if path.name in ("__init__.py", "__main__.py")}:
        name = ".".join(path.relative_to(SRC.parent).with_suffix("").parts)
        room_of, _, own = name.rpartition(".")
        users = {
            user
            for user in FILES
            for node in ast.walk(ast.parse(user.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
            and (
                node.module == name
                or (node.module == room_of and own in {alias.name for alias in node.names})
            )
        }
        assert len(users) > 1, f"{name} has one user: {users}"


def test_run_reads_as_a_table_of_contents() -> None:
    tree = ast.parse((SRC / "training" / "train.py").read_text(encoding="utf-8"))
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


def test_enums_document_each_member() -> None:
    """Beside the member, below it, or by name in the docstring of the class."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if not isinstance(node, ast.ClassDef) or "Enum" not in ast.unparse(node):
                continue
            if not any(ast.unparse(base).endswith("Enum") for base in node.bases):
                continue
            told = ast.get_docstring(node) or ""
            assert told, node.name
            for member, below in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(member, ast.Assign):
                    name = ast.unparse(member.targets[0])
                    beside = "#" in lines[member.lineno - 1] or f"{name}:" in told
                    assert beside or isinstance(below, ast.Expr), f"{node.name}.{name}"


@pytest.mark.parametrize(
    "code",
    [
        "import lorawright",
        "from lorawright.cli import run; run(['--help'])",
        "from lorawright.cli import run; run(['train', '--help'])",
        "from lorawright.dataset import prepare",
    ],
)
def test_torch_stays_unloaded(code: str) -> None:
    """Importing, help and everything `check` needs."""
    probe = f"{code}\nimport sys; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_module_before_model_loads_torch() -> None:
    """Imports take 2 s of processor time; functions may import it where they need it."""
    light = [*ROOMS[: ROOMS.index("model")], "cli"]
    paths = [path.relative_to(SRC.parent) for path in FILES if room(path) in light]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    probe = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


VERBS = (
    "quickstart init recipes check inspect plan train launch_script evaluate merge export chat "
    "report push eject doctor"
)


def test_verbs_are_frozen() -> None:
    """A new verb is a decision: change this list with it."""
    from lorawright.cli.app import app

    verbs = [str(command.callback.__name__) for command in app.registered_commands]
    assert " ".join(verbs) == VERBS
