"""What a model's folder says about its chats: templates, the tokens they may name, stop tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorawright.errors import TemplateError

TEMPLATE = "chat_template.jinja"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
NAMED_TEMPLATES = "additional_chat_templates"  # Transformers 5 puts `tool_use.jinja` there


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        TemplateError: It is not JSON, or cannot be read.
    """
    try:
        if not path.is_file():
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(error, path, name) from None
    except (ValueError, RecursionError) as error:
        raise TemplateError(
            f"{path.name} is not valid JSON: {error}", where=name, hint="download the model again"
        ) from None
    if not isinstance(found, dict):
        raise TemplateError(
            f"{path.name} holds no JSON object", where=name, hint="download the model again"
        )
    return found


def unreadable(error: OSError, path: Path, name: str) -> TemplateError:
    """What the system says of a file of a model's folder."""
    return TemplateError(
        f"{path.name} cannot be read: {error.strerror}",
        where=name,
        hint="see to its permissions and those of its folder, or download the model again",
    )


def templates(folder: Path, config: Mapping[str, Any], name: str) -> tuple[str, str]:
    """The template for chats without and with tools, found as Transformers finds them.

    Files win over tokenizer_config.json, all together: `chat_template.jinja` is the default, each
    file of `additional_chat_templates` another by its name, of which chats with tools take
    `tool_use`.

    Raises:
        TemplateError: There is no default, or a file cannot be read.
    """
    named = sorted((folder / NAMED_TEMPLATES).glob("*.jinja"))
    paths = {path.stem: path for path in named if not path.is_fifo()}  # would be waited for
    if (folder / TEMPLATE).is_file():
        paths = {"default": folder / TEMPLATE, **paths}
    found: Any = {key: _read(path, name) for key, path in paths.items()}
    found = found or config.get("chat_template")
    if isinstance(found, list):
        found = {
            entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)
        }
    if isinstance(found, str):
        found = {"default": found}
    if not isinstance(found, dict) or not isinstance(found.get("default"), str):
        raise TemplateError(
            "has no chat template",
            where=name,
            hint="base models often have none: start from the model's chat version "
            "(…-Instruct), or put its chat_template.jinja into the model's folder",
        )
    default = str(found["default"])
    return default, str(found.get("tool_use") or default)


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(error, path, name) from None
    except UnicodeDecodeError as error:
        raise TemplateError(
            f"{path.name} cannot be read: {error}", where=name, hint="download the model again"
        ) from None


def variables(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like, as Transformers hands them to templates."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if key.endswith("_token") and value is not None and not isinstance(value, bool):
            found[key] = str(value.get("content", "") if isinstance(value, dict) else value)
    return found


def stop_ids(folder: Path, name: str, eos_id: int | None) -> frozenset[int]:
    """Tokens that end an answer: `eos_token_id` of the model's configs, and the tokenizer's eos.

    Args:
        folder: The model's.
        name: Its name, for messages.
        eos_id: Of the tokenizer's eos token.

    Raises:
        TemplateError: A config is not JSON.
    """
    found = [] if eos_id is None else [eos_id]
    for file in (GENERATION_CONFIG, CONFIG):
        found += _eos_ids(read_json(folder / file, name))
    return frozenset(found)


def generation_stops(folder: Path, name: str) -> tuple[int, ...]:
    """Tokens at which Transformers and vLLM stop by the model's generation config.

    Without such a file they make one of config.json.

    Raises:
        TemplateError: A config is not JSON.
    """
    has_one = (folder / GENERATION_CONFIG).is_file()
    return tuple(_eos_ids(read_json(folder / (GENERATION_CONFIG if has_one else CONFIG), name)))


def add_stop(base: Path, work: Path, token_id: int) -> None:
    """Writes the base's generation config with one more stop token.

    Args:
        base: The model's folder.
        work: Where the file is written; the rest of it stays as it is.
        token_id: The token at which generation shall stop too.
    """
    path = base / GENERATION_CONFIG
    found = read_json(path, str(base))
    if not path.is_file():
        config = read_json(base / CONFIG, str(base))
        sections = {**(config.get("text_config") or {}), **config}
        found = {key: sections[key] for key in TOKEN_KEYS if sections.get(key) is not None}
    stops = list(dict.fromkeys([*_eos_ids(found), token_id]))
    text = json.dumps({**found, "eos_token_id": stops}, indent=2, ensure_ascii=False)
    (work / GENERATION_CONFIG).write_text(text + "\n", encoding="utf-8")


def _eos_ids(config: Mapping[str, Any]) -> list[int]:
    found: list[Any] = []
    for section in (config, config.get("text_config")):
        listed = section.get("eos_token_id") if isinstance(section, dict) else None
        found += listed if isinstance(listed, list) else [listed]
    return [number for number in found if type(number) is int]
