"""YAML file and `--set` options → `Config`, with every error at once and the line of each.

loaded = load("config.yaml", ["training.epochs=1"])
loaded.config.training.epochs  # 1
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorawright.config import paths, secrets, trl_fields, yaml_tree
from lorawright.config.explain import explain
from lorawright.config.schema import Config, LoraSettings
from lorawright.config.yaml_tree import Key, dotted
from lorawright.errors import ConfigError
from lorawright.types import Kind, Problem

SOURCES = ("data.train", "model.name")  # what must be known before a row can be read
MOST_LEVELS = 8  # of a key in `--set`


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a config file and its overrides amount to.

    `config` is whole even when there are problems: faulty keys then stand at their defaults, so
    that `check` can go on to the data. `given` holds the dotted keys the user wrote, with where.
    `readable`: where data and model are is as the user meant it, not a default in a fault's place.
    """

    config: Config
    problems: tuple[Problem, ...]
    given: dict[str, str]
    readable: bool = True

    def problem(self, key: str, message: str, hint: str) -> Problem:
        """A problem of a key that was found later, with the key's address."""
        where, line = _address(key, self.given, self.given.get("", ""))
        return Problem(where, line, key, message, hint, Kind.CONFIG)


class ConfigProblems(ConfigError):
    """A config with one or more errors; `problems` has them all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{first.message}{more}", where=first.where, hint=first.hint)
        self.problems = tuple(problems)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Reads a config; raises `ConfigProblems` with all errors."""
    loaded = load_leniently(path, overrides)
    if loaded.problems:
        raise ConfigProblems(loaded.problems)
    return loaded


def load_leniently(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Reads a config and keeps going past its errors; raises `ConfigError` if it is no YAML.

    Args:
        path: The file; its relative paths are relative to it.
        overrides: `KEY=VALUE`; their relative paths are relative to the current folder.
    """
    file = str(path)
    tree = yaml_tree.read(Path(path))
    given = {dotted(key): f"{file}:{line}" for key, line in tree.lines.items()} | {"": file}
    problems = list(tree.problems)
    set_keys: set[str] = set()
    for override in overrides:
        problems += _apply_override(tree.values, override, given, set_keys)
    problems += _take_secrets(tree.values, given, file)
    config, found = _validate(tree.values, given, file)
    problems += found
    config = paths.anchored(config, Path(path).parent, kept=set_keys)
    problems += _source_problems(config, given, file)
    problems += _trl_problems(config, given, file)
    problems += _lora_problems(config, given, file)
    return Loaded(config, tuple(problems), given, _is_readable(tree.values, problems))


def _apply_override(
    tree: dict[str, Any], override: str, given: dict[str, str], set_keys: set[str]
) -> list[Problem]:
    """Puts one `--set` into the tree; its value is in no message, it may be a secret."""
    name, equals, text = override.partition("=")
    name = name.strip()
    where = f"--set {name[:100]}"
    if not equals or not name:
        where = "--set" if secrets.looks_like_one(override) else where
        return [_problem(where, None, "", "is not KEY=VALUE", "write `--set training.epochs=1`")]
    keys = name.split(".")
    if len(keys) > MOST_LEVELS:
        return [_problem(where, None, "", f"has {len(keys)} levels", "no key has so many")]
    value, problems = yaml_tree.value_of(text, tuple(keys), where)
    node = tree
    for key in keys[:-1]:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    if problems:
        node.pop(keys[-1], None)
    else:
        node[keys[-1]] = value
    for depth in range(1, len(keys) + 1):
        given[".".join(keys[:depth])] = where
    set_keys.add(name)
    if isinstance(value, dict):
        set_keys.update(f"{name}.{key}" for key in value)
    return problems


def _take_secrets(tree: dict[str, Any], given: dict[str, str], file: str) -> list[Problem]:
    """Takes secrets out of the tree, so that no message shows one."""
    problems: list[Problem] = []
    for secret in list(secrets.find(tree)):
        key = dotted(secret.key)
        where, line = _address(key, given, file)
        problems.append(
            _problem(
                where,
                line,
                key,
                f"`{key}` {secret.what}; a config is copied into its run and report",
                "take it out; `hf auth login`, HF_TOKEN and the tracker's own variable serve",
            )
        )
        _remove(tree, secret.key)
    return problems


def _validate(
    tree: dict[str, Any], given: dict[str, str], file: str
) -> tuple[Config, list[Problem]]:
    """The config, with faulty keys taken out one round after another until the rest is valid."""
    problems: list[Problem] = []
    while True:
        try:
            return Config.model_validate(tree), problems
        except ValidationError as error:
            found: dict[Key, Problem] = {}
            for item in error.errors():
                key = _existing_key(tree, item["loc"])
                if key in found:
                    continue
                where, line = _address(dotted(key), given, file)
                message, hint = explain(key, dict(item))
                found[key] = _problem(where, line, dotted(key), message, hint)
            problems += found.values()
            for key in found:
                _remove(tree, key)


def _source_problems(config: Config, given: dict[str, str], file: str) -> list[Problem]:
    """Several sources written as one text, which no file is called."""
    problems: list[Problem] = []
    for name in ("train", "eval"):
        value = getattr(config.data, name)
        if not isinstance(value, str) or os.path.lexists(value):
            continue
        if "," not in value and not glob.has_magic(value):
            continue
        key = f"data.{name}"
        where, line = _address(key, given, file)
        what = f"`{key}` is `{value[:60]}`, expected one file, folder or hub id"
        problems.append(
            _problem(where, line, key, what, "put the files into one folder and name the folder")
        )
    return problems


def _trl_problems(config: Config, given: dict[str, str], file: str) -> list[Problem]:
    problems: list[Problem] = []
    for name, what, hint in trl_fields.problems(config.training):
        key = f"training.trl.{name}"
        where, line = _address(key, given, file)
        problems.append(_problem(where, line, key, f"`{key}` {what}", hint))
    return problems


def parameter_problems(lora: LoraSettings) -> list[tuple[str, str]]:
    """What `lora.target_parameters` cannot stand beside, and hints.

    PEFT adds such an adapter to the weight itself, where no input is that could be dropped out.
    """
    key = "lora.target_parameters"
    given = {"lora.dropout": lora.dropout > 0, "lora.use_dora": lora.use_dora}
    return [
        (
            f"`{key}` is adapted by PEFT as a weight, which `{other}` cannot be",
            f"write `{other}: {value}`, or leave `{key}` out",
        )
        for other, value in (("lora.dropout", "0"), ("lora.use_dora", "false"))
        if lora.target_parameters and given[other]
    ]


def _lora_problems(config: Config, given: dict[str, str], file: str) -> list[Problem]:
    key = "lora.target_parameters"
    where, line = _address(key, given, file)
    found = parameter_problems(config.lora)
    return [_problem(where, line, key, what, hint) for what, hint in found]


def _is_readable(tree: dict[str, Any], problems: Sequence[Problem]) -> bool:
    """Whether data and model are where the user wrote; a misspelt key leaves a default behind."""
    for source in SOURCES:
        section, name = source.split(".")
        values = tree.get(section)
        is_given = isinstance(values, dict) and name in values
        around = {problem.path for problem in problems}
        if source in around:
            return False
        near = (p for p in around if "." not in p or p.startswith(f"{section}."))
        if not is_given and any(near):
            return False
    return True


def _address(key: str, given: dict[str, str], file: str) -> tuple[str, int | None]:
    """File and line of a key, or the `--set` it came from; a key inside a value has the value's."""
    while key and key not in given:
        key = key.rpartition(".")[0]
    address = given.get(key, file)
    where, _, line = address.rpartition(":")
    return (
        (where, int(line)) if where == given.get("", file) and line.isdigit() else (address, None)
    )


def _existing_key(tree: Any, loc: Key) -> Key:
    """Pydantic's address without the names of union members it adds."""
    key: list[str | int] = []
    for part in loc:
        if not isinstance(tree, dict) or part not in tree:
            break
        key.append(part)
        tree = tree[part]
    return tuple(key) or loc[:1]


def _remove(tree: dict[str, Any], key: Key) -> None:
    if not key:
        tree.clear()
        return
    for part in key[:-1]:
        inner = tree.get(str(part))
        if not isinstance(inner, dict):
            return  # taken out before
        tree = inner
    tree.pop(str(key[-1]), None)


def _problem(file: str, line: int | None, path: str, message: str, hint: str) -> Problem:
    return Problem(file, line, path, message, hint, Kind.CONFIG)
