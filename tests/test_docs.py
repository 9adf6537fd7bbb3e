"""The docs say what the code does: reference, commands, config blocks, links, the map of files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lorawright.cli.app import app
from lorawright.config.schema import Config

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
TWINS = [
    (path.with_name(path.name.replace(".zh-CN.md", ".md")), path)
    for path in DOCS
    if path.name.endswith(".zh-CN.md")
]
VERBS = {str(command.callback.__name__).replace("_", "-") for command in app.registered_commands}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CALL = re.compile(r"(?:^|`)lorawright (?!-)([\w.-]+)", re.MULTILINE)


def blocks(path: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(path.read_text("utf-8")) if name == language]


def headings(path: Path) -> list[int]:
    """The level of each heading, in order."""
    prose = BLOCK.sub("", path.read_text("utf-8"))
    return [len(found) for found in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def test_reference_is_up_to_date() -> None:
    """If this fails: make reference."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_reference.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_twin_has_its_original() -> None:
    assert READMES in TWINS
    assert all(english.is_file() for english, _ in TWINS)


@pytest.mark.parametrize("twins", TWINS, ids=lambda twins: name(twins[0]))
def test_languages_are_equal(twins: tuple[Path, Path]) -> None:
    """The same headings, commands, settings, and rows of tables."""
    english, chinese = twins
    assert headings(english) == headings(chinese)
    assert blocks(english, "bash") == blocks(chinese, "bash")
    assert blocks(english, "yaml") == blocks(chinese, "yaml")
    rows = [sum(line.startswith("|") for line in p.read_text("utf-8").splitlines()) for p in twins]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    prose = BLOCK.sub("", path.read_text("utf-8"))
    for target in LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        assert (path.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_every_command_exists(path: Path) -> None:
    """Behind `lorawright` in a command, at a line's start or after a backtick, stands a verb."""
    for verb in CALL.findall(path.read_text("utf-8")):
        assert verb in VERBS, verb


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_yaml_blocks_are_configs(path: Path) -> None:
    for block in blocks(path, "yaml"):
        if block.startswith(("model:", "data:", "lora:", "training:", "distributed:")):
            Config.model_validate(yaml.safe_load(block))


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_config_keys_exist(path: Path) -> None:
    """`section.key` in backticks is a key of the config."""
    sections = "|".join(Config.model_fields)
    prose = BLOCK.sub("", path.read_text("utf-8"))
    for section, key in re.findall(rf"`(?:--set )?({sections})\.(\w+)[`:= ]", prose):
        if (section, key) in (("data", "json"), ("lora", "py")):  # names of files
            continue
        fields = Config.model_fields[section].annotation.model_fields
        assert key in fields, f"{section}.{key}"


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_no_path_of_a_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.~])/(?:work|tmp|root|home|Users)/", path.read_text("utf-8"))
