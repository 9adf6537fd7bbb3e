"""What pydantic found in a config, in words: what stands there, what is expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.functional_validators import AfterValidator, BeforeValidator

from lorawright.config.other_tools import advice
from lorawright.config.schema import Config
from lorawright.config.yaml_tree import Key, dotted

BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
OWN = {"place", "modules"}  # of values.py; their messages are ours
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true, false",
    type(None): "null",
    list: "a list",
    dict: "a mapping",
}


def explain(key: Key, item: dict[str, Any]) -> tuple[str, str]:
    """Message and hint.

    Args:
        key: The key, as the user wrote it.
        item: Pydantic's finding.
    """
    name = dotted(key)
    if item["type"] == "extra_forbidden":
        return f"unknown key `{name[:200]}`", _hint_for_unknown(key)
    message = f"`{name}` is {_shown(item['input'])}, {_expected(key, item)}"
    hint = _special_hint(name, item["input"]) or _describe(key)
    return message, hint or "see `lorawright recipes` for working configs"


def _special_hint(name: str, value: Any) -> str | None:
    if name in ("data.train", "data.eval") and isinstance(value, list):
        return "put the files into one folder and name the folder"
    if name == "training.epochs" and isinstance(value, float) and value > 0:
        return "part of an epoch is so many steps: `training.max_steps`"
    return None


def _hint_for_unknown(key: Key) -> str:
    name = str(key[-1])
    section = dotted(key[:-1])
    known = advice(name, section)
    if known is not None:
        return known
    here = _names(key[:-1])
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{dotted((*key[:-1], near[0]))}`?"
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


def _field(key: Key) -> FieldInfo | None:
    section = _section(key[:1])
    return section.model_fields.get(str(key[1])) if section and len(key) > 1 else None


def _describe(key: Key) -> str | None:
    field = _field(key)
    if field is None:
        return None
    default = field.get_default(call_default_factory=True)
    return f"{field.description}; the default is {_shown(default)}"


def _expected(key: Key, item: dict[str, Any]) -> str:
    field = _field(key)
    if item["type"] in OWN:
        return str(item["msg"])
    if item["type"] in BOUNDS:
        return f"expected a number {str(item['msg']).removeprefix('Input should be ')}"
    if item["type"] == "finite_number":
        return "expected a finite number"
    if item["type"] == "string_too_long":
        return f"expected text of at most {item['ctx']['max_length']} characters"
    if item["type"] == "string_too_short":
        return "expected text that is not empty"
    words = list(dict.fromkeys(_words(field.annotation))) if field else ["a section of keys"]
    return f"expected one of: {', '.join(words)}" if len(words) > 1 else f"expected {words[0]}"


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
        elif not isinstance(argument, FieldInfo | AfterValidator | BeforeValidator):
            yield from _words(argument)


def _shown(value: Any) -> str:
    if value is None:
        return "`null`"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"
