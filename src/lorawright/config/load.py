"""YAML file and `--set` options → `Config`, with every error at once and the line of each.

loaded = load("config.yaml", ["training.epochs=1"])
loaded.config.training.epochs  # 1
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lorawright.config import trl_fields
from lorawright.config.foreign import advice
from lorawright.config.schema import Config
from lorawright.errors import ConfigError
from lorawright.types import Kind, Problem

Key = tuple[str | int, ...]

PATH_KEYS: tuple[tuple[str, str], ...] = (
    ("model", "name"),
    ("template", "generation_tags"),
    ("data", "train"),
    ("data", "eval"),
    ("training", "output"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a config file and its overrides amount to.

    `config` is whole even when there are problems: faulty keys then stand at their defaults, so
    that `check` can go on to the data. `given` holds the dotted keys the user wrote, with where.
    """

    config: Config
    problems: tuple[Problem, ...]
    given: dict[str, str]


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
    """Reads a config and keeps going past its errors; raises `ConfigError` if it is no YAML."""
    tree, lines = _read_yaml(Path(path))
    _anchor_paths(tree, Path(path).parent)
    given = {_dotted(key): f"{path}:{line}" for key, line in lines.items()}
    problems: list[Problem] = []
    for override in overrides:
        problems += _apply_override(tree, override, given)
    config, found = _validate(tree, given, str(path))
    found += _trl_problems(config, given, str(path))
    return Loaded(config, tuple(problems + found), given)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "no such config file", where=str(path), hint="`lorawright init DIR` writes one"
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            "is a folder, expected a YAML file",
            where=str(path),
            hint=_hint_for_folder(path),
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"is not UTF-8 text (byte {error.start})", where=str(path), hint="save it as UTF-8"
        ) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_walk(root, str(path)))
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(
            f"is not valid YAML: {what}", where=where, hint="check indentation, colons and quotes"
        ) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"holds {type(tree).__name__}, expected sections such as `model:` and `data:`",
            where=str(path),
            hint="`lorawright recipes` lists working configs",
        )
    return tree, lines


def _hint_for_folder(folder: Path) -> str:
    """Names the configs inside."""
    found = sorted(str(path) for ending in ("yaml", "yml") for path in folder.glob(f"*.{ending}"))
    named = ", ".join(f"`{path}`" for path in found[:5])
    return f"did you mean {named}?" if found else "`lorawright init DIR` writes one"


def _walk(node: yaml.Node | None, file: str, prefix: Key = ()) -> Iterator[tuple[Key, int]]:
    """Every key of a mapping with its line; a key that stands twice is an error, YAML hides it."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name = str(key_node.value)
        line = key_node.start_mark.line + 1
        if name in seen:
            raise ConfigError(
                f"key `{_dotted((*prefix, name))}` stands twice",
                where=f"{file}:{line}",
                hint="keep one of the two",
            )
        seen.add(name)
        yield (*prefix, name), line
        yield from _walk(value_node, file, (*prefix, name))


def _anchor_paths(tree: dict[str, Any], folder: Path) -> None:
    """Relative paths in a config file are relative to the file."""
    if folder.resolve() == Path.cwd():
        return
    for section, name in PATH_KEYS:
        value = tree.get(section, {}).get(name) if isinstance(tree.get(section), dict) else None
        if not isinstance(value, str) or os.path.isabs(value):
            continue
        beside = folder / value
        if beside.exists() or name == "output" or not _may_be_hub_id(value):
            tree[section][name] = str(beside)


def _may_be_hub_id(value: str) -> bool:
    return (
        value == "tiny" or "://" in value or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value) is not None
    )


def _apply_override(tree: dict[str, Any], override: str, given: dict[str, str]) -> list[Problem]:
    where = f"--set {override}"
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        return [_problem(where, None, "", "is not KEY=VALUE", "write `--set training.epochs=1`")]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    keys = name.strip().split(".")
    node = tree
    for key in keys[:-1]:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[keys[-1]] = value
    for depth in range(1, len(keys) + 1):
        given[".".join(keys[:depth])] = where
    return []


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
                found.setdefault(key, _explain(key, dict(item), given, file))
            problems += found.values()
            for key in found:
                _remove(tree, key)


def _trl_problems(config: Config, given: dict[str, str], file: str) -> list[Problem]:
    problems: list[Problem] = []
    for name, what, hint in trl_fields.refused(config.training.trl):
        dotted = f"training.trl.{name}"
        where, line = _address(dotted, given, file)
        problems.append(_problem(where, line, dotted, f"`{dotted}` {what}", hint))
    return problems


def _address(dotted: str, given: dict[str, str], file: str) -> tuple[str, int | None]:
    """File and line of a key, or the `--set` it came from."""
    address = given.get(dotted, file)
    where, _, line = address.rpartition(":")
    return (file, int(line)) if line.isdigit() and where == file else (address, None)


def _existing_key(tree: Any, loc: Key) -> Key:
    """Pydantic's address without the names of union members it adds."""
    key: list[str | int] = []
    for part in loc:
        if isinstance(tree, dict) and part in tree:
            key.append(part)
            tree = tree[part]
        elif isinstance(tree, list) and isinstance(part, int):
            break
        else:
            break
    return tuple(key) or loc[:1]


def _remove(tree: dict[str, Any], key: Key) -> None:
    for part in key[:-1]:
        tree = tree[str(part)]
    del tree[str(key[-1])]


def _explain(key: Key, item: dict[str, Any], given: dict[str, str], file: str) -> Problem:
    dotted = _dotted(key)
    where, line = _address(dotted, given, file)
    if item["type"] == "extra_forbidden":
        message, hint = f"unknown key `{dotted}`", _hint_for_unknown(key)
    else:
        message = f"`{dotted}` is {_shown(item['input'])}, {_expected(key, item)}"
        hint = _describe(key) or "see `lorawright recipes` for working configs"
    return _problem(where, line, dotted, message, hint)


def _problem(file: str, line: int | None, path: str, message: str, hint: str) -> Problem:
    return Problem(file, line, path, message, hint, Kind.CONFIG)


def _hint_for_unknown(key: Key) -> str:
    name = str(key[-1])
    section = _dotted(key[:-1])
    known = advice(name, section)
    if known is not None:
        return known
    here = _names(key[:-1])
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{_dotted((*key[:-1], near[0]))}`?"
    elsewhere = [f"{s}.{name}" for s in Config.model_fields if name in _names((s,))]
    if elsewhere:
        return f"did you mean `{elsewhere[0]}`?"
    return f"expected one of: {', '.join(here)}"


def _section(key: Key) -> type[BaseModel] | None:
    if not key:
        return Config
    field = Config.model_fields.get(str(key[0]))
    if field is None or len(key) > 1:
        return None
    assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return field.annotation


def _names(key: Key) -> list[str]:
    section = _section(key)
    return list(section.model_fields) if section else []


def _describe(key: Key) -> str | None:
    section = _section(key[:1])
    if section is None or len(key) < 2 or str(key[1]) not in section.model_fields:
        return None
    field = section.model_fields[str(key[1])]
    default = field.get_default(call_default_factory=True)
    return f"{field.description}; the default is {_shown(default)}"


def _expected(key: Key, item: dict[str, Any]) -> str:
    section = _section(key[:1])
    field = section.model_fields.get(str(key[1])) if section and len(key) > 1 else None
    bound = str(item["msg"]).removeprefix("Input should be ")
    if item["type"] in BOUNDS and not isinstance(item["input"], str):
        return f"expected a number {bound}"
    words = list(dict.fromkeys(_words(field.annotation))) if field else ["a section of keys"]
    return f"expected one of: {', '.join(words)}" if len(words) > 1 else f"expected {words[0]}"


BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true, false",
    type(None): "null",
    list: "a list",
    dict: "a mapping",
}


def _words(annotation: Any) -> Iterator[str]:
    """What a field takes, in words: its choices, or the kinds of values."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from (member.value for member in annotation)
        return
    base = get_origin(annotation) or annotation
    if base is list and get_args(annotation) != (str,):
        yield f"a list of {', '.join(_words(get_args(annotation)[0]))}"
        return
    if base in WORDS:
        yield WORDS[base]
        return
    for argument in get_args(annotation):
        if base is Literal:
            yield str(argument)
        elif not isinstance(argument, FieldInfo):
            yield from _words(argument)


def _shown(value: Any) -> str:
    text = (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)
