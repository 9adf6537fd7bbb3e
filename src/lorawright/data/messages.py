"""Lists of messages and tools → `Message`s, in OpenAI's keys and in ShareGPT's.

Every fault of a list is found, not only the first; what cannot be read is left out of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lorawright.config.values import GIVEN_VARIABLES
from lorawright.data.parts import Parts, parse_parts
from lorawright.data.problems import RowErrors, did_you_mean, got, names, nearest, quote
from lorawright.data.tool_calls import FUNCTION_CALL, calls_from_text, decode, parse_calls
from lorawright.types import REASONING, Message, Role

OPENAI_ROLES: Mapping[str, Role] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}
SHAREGPT_ROLES: Mapping[str, Role] = {
    **OPENAI_ROLES,
    "human": Role.USER,
    "gpt": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "bot": Role.ASSISTANT,
    "observation": Role.TOOL,
    "function_response": Role.TOOL,
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a list of messages is written: its two keys, its roles, and those named to users."""

    role_key: str
    content_key: str
    roles: Mapping[str, Role]
    expected: str
    has_function_call_role: bool


OPENAI = Dialect("role", "content", OPENAI_ROLES, "system, user, assistant, tool", False)
FROM_VALUE = Dialect(
    "from", "value", SHAREGPT_ROLES, "system, human, gpt, function_call, observation", True
)
ROLE_CONTENT = Dialect(
    "role", "content", SHAREGPT_ROLES, "system, user, assistant, tool, function_call", True
)

TRUE_FALSE: Mapping[float, bool] = {True: True, False: False}
ZERO_ONE: Mapping[float, bool] = {0: False, 1: True}
TRAIN_KEYS = (
    ("train", TRUE_FALSE, "true or false"),
    ("loss", TRUE_FALSE, "true or false"),
    ("weight", ZERO_ONE, "0 or 1"),
    ("loss_weight", ZERO_ONE, "0 or 1"),
)
OPTIONAL_KEYS = ("tool_calls", FUNCTION_CALL, "train", "weight", "tools", "loss_weight")
OWN_KEYS = frozenset(("role", "content", "from", "value", "loss", *OPTIONAL_KEYS))
FUNCTIONS = "functions"
NO_TOOLS: tuple[Any, ...] = (None, "", "null", [], "[]")
TOOL_KEYS = ("tools", "tool", FUNCTIONS)
VARIABLES = "chat_template_kwargs"
FREE_KEYS = ("name", "id", "tool_call_id", REASONING, "reasoning", "thinking", "tool")


def parse_messages(value: Any, path: str, dialect: Dialect, errors: RowErrors) -> list[Message]:
    """All messages of a list; faults go to `errors`."""
    if type(value) is not list or not value:
        keys = f"`{dialect.role_key}` and `{dialect.content_key}`"
        errors.find(path, f"{got(value)}, expected a list of messages", f"each has {keys}")
        return []
    messages = []
    role_key, content_key, roles = dialect.role_key, dialect.content_key, dialect.roles
    for index, item in enumerate(value):
        # Most messages are two texts; this way past the rest is worth 30 % of the whole reading.
        if type(item) is dict and len(item) == 2:
            name, content = item.get(role_key), item.get(content_key)
            if type(name) is str and type(content) is str and name in roles:
                messages.append(Message(roles[name], content))
                continue
        message = _parse_message(item, f"{path}[{index}]", dialect, errors)
        if message is not None:
            messages.append(message)
    return messages


def _parse_message(item: Any, path: str, dialect: Dialect, errors: RowErrors) -> Message | None:
    if not isinstance(item, dict):
        expected = f"an object with `{dialect.role_key}` and `{dialect.content_key}`"
        errors.find(path, f"{got(item)}, expected {expected}", "a message is one object")
        return None
    here = f"{path}.{dialect.content_key}"
    value = item.get(dialect.content_key)
    extra = _parse_extra(item, path, dialect, errors)
    if dialect.has_function_call_role and item.get(dialect.role_key) == FUNCTION_CALL:
        role: Role | None = Role.ASSISTANT
        content = None
        calls = calls_from_text(value, here, errors)
    else:
        role = _parse_role(item, path, dialect, errors)
        calls = parse_calls(item, path, role, errors)
        if isinstance(value, list):
            parts = parse_parts(value, here, role, errors)
            content, calls = parts.text, calls + parts.calls
            _add_reasoning(parts, extra, here, errors)
        else:
            content = _parse_content(item, path, role, dialect, errors)
    train = _parse_train(item, path, errors)
    if item.get("tools") is not None:
        errors.inner_tools.append((f"{path}.tools", item["tools"]))
    return None if role is None else Message(role, content, calls, train, extra)


def _add_reasoning(parts: Parts, extra: dict[str, Any], path: str, errors: RowErrors) -> None:
    if not parts.reasoning:
        return
    if REASONING in extra:
        message = f"holds reasoning, and so does `{REASONING}`"
        errors.find(path, message, "keep one of the two")
    extra[REASONING] = parts.reasoning


def _parse_role(
    item: dict[str, Any], path: str, dialect: Dialect, errors: RowErrors
) -> Role | None:
    key = dialect.role_key
    if key not in item:
        _missing(item, key, path, errors)
        return None
    name = item[key]
    if isinstance(name, str) and name in dialect.roles:
        return dialect.roles[name]
    what = f"is {quote(name)}" if isinstance(name, str) and name else got(name)
    hint = "write one of them"
    if isinstance(name, str) and name:
        known = (*dialect.expected.split(", "), *dialect.roles)
        hint = did_you_mean(name, known, hint)
    errors.find(f"{path}.{key}", f"{what}, expected one of: {dialect.expected}", hint)
    return None


def _missing(item: dict[str, Any], key: str, path: str, errors: RowErrors) -> None:
    for found in item:
        if found not in OWN_KEYS and nearest(found, (key,)):
            errors.find(
                f"{path}.{key}", f"is missing, found {quote(found)}", f"did you mean `{key}`?"
            )
            return
    errors.find(f"{path}.{key}", f"is missing, the message has {names(item)}", f"add `{key}`")


def _parse_content(
    item: dict[str, Any], path: str, role: Role | None, dialect: Dialect, errors: RowErrors
) -> str | None:
    key = dialect.content_key
    value = item.get(key)
    if isinstance(value, str):
        return value
    if value is not None:
        errors.find(f"{path}.{key}", f"{got(value)}, expected text", _hint_for_content(value))
    elif role in (Role.ASSISTANT, None) and (item.get("tool_calls") or item.get(FUNCTION_CALL)):
        return None
    elif key in item:
        hint = "only an assistant message with tool_calls may go without"
        errors.find(f"{path}.{key}", "is null, expected text", hint)
    else:
        _missing(item, key, path, errors)
    return None


def _hint_for_content(value: Any) -> str:
    if isinstance(value, dict):
        return "write the object as JSON text"
    return "put it in quotes" if isinstance(value, int | float) else "write it as text"


def _parse_train(item: dict[str, Any], path: str, errors: RowErrors) -> bool | None:
    """The message's own wish; several keys of one meaning must say the same."""
    said: tuple[str, bool] | None = None
    for key, choices, expected in TRAIN_KEYS:
        value = item.get(key)
        if value is None:
            continue
        wish = choices.get(value) if isinstance(value, int | float) else None
        if wish is None or isinstance(value, bool) != (choices is TRUE_FALSE):
            errors.find(f"{path}.{key}", f"{got(value)}, expected {expected}", "or leave it out")
        elif said is None:
            said = (key, wish)
        elif said[1] is not wish:
            message = f"says the opposite of `{said[0]}`"
            errors.find(f"{path}.{key}", message, "keep one of the two")
    return None if said is None else said[1]


def _parse_extra(
    item: dict[str, Any], path: str, dialect: Dialect, errors: RowErrors
) -> dict[str, Any]:
    others = {"role", "content", "from", "value"} - {dialect.role_key, dialect.content_key}
    extra = {}
    for key, value in item.items():
        if value is None:
            continue
        if key in others:
            message = f"stands beside `{dialect.role_key}` and `{dialect.content_key}`"
            errors.find(f"{path}.{key}", message, "keep one pair of keys")
        elif key not in OWN_KEYS:
            near = None if key in FREE_KEYS else nearest(key, OPTIONAL_KEYS)
            if near and item.get(near) is None:
                errors.find(f"{path}.{key}", "is an unknown key", f"did you mean `{near}`?")
            elif key not in FREE_KEYS:
                errors.unknown.append((f"{path}.{key}", key))
            extra[key] = value
    return extra


def parse_tools(row: dict[str, Any], errors: RowErrors) -> tuple[Mapping[str, Any], ...] | None:
    """Tools of a row (`tools`, `tool`, or OpenAI's older `functions`), or of one of its messages;
    kept exactly as given, but that a function gets the shell of a tool."""
    places = [(key, row[key]) for key in TOOL_KEYS if row.get(key) not in NO_TOOLS]
    places += errors.inner_tools
    if not places:
        return None
    for path, _ in places[1:]:
        errors.find(path, f"tools stand in `{places[0][0]}` too", "keep one list of tools")
    path, value = places[0]
    if isinstance(value, str):
        is_json, value = decode(value, path, errors)
        if not is_json:
            return None
    if not isinstance(value, list):
        errors.find(path, f"{got(value)}, expected a list of tools", _TOOL)
        return None
    for index, tool in enumerate(value):
        _check_tool(tool, f"{path}[{index}]", errors)
    if path == FUNCTIONS:
        value = [_as_tool(function) for function in value]
    return tuple(value) or None


def parse_variables(row: dict[str, Any], errors: RowErrors) -> Mapping[str, Any]:
    """What a row alone tells the chat template; null is as good as absent (columns of tables)."""
    value = row.get(VARIABLES)
    if isinstance(value, str):
        is_json, value = decode(value, VARIABLES, errors)
        if not is_json:
            return {}
    if value is None:
        return {}
    if not isinstance(value, dict):
        errors.find(VARIABLES, f"{got(value)}, expected an object", _VARIABLES)
        return {}
    for key in value:
        if key in GIVEN_VARIABLES or key.endswith("_token") or not key.isidentifier():
            errors.find(f"{VARIABLES}.{key}", "is no name that a row can give", _VARIABLES)
    return {key: item for key, item in value.items() if item is not None}


_VARIABLES = 'names and values that the chat template knows: {"enable_thinking": false}'


def _as_tool(function: Any) -> Any:
    if not isinstance(function, dict) or "function" in function:
        return function
    return {"type": "function", "function": function}


_TOOL = (
    'a tool is {"type": "function", "function": {"name": "...", ...}} or bare {"name": "...", ...}'
)


def _check_tool(tool: Any, path: str, errors: RowErrors) -> None:
    if isinstance(tool, dict) and "function" in tool:
        path, tool = f"{path}.function", tool["function"]
    if not isinstance(tool, dict):
        errors.find(path, f"{got(tool)}, expected an object", _TOOL)
    elif not isinstance(tool.get("name"), str) or not tool["name"]:
        what = got(tool["name"]) if "name" in tool else "is missing"
        errors.find(f"{path}.name", f"{what}, expected the tool's name", _TOOL)


@lru_cache(maxsize=1024)
def item_paths(key: str, num_items: int) -> tuple[str, ...]:
    return tuple(f"{key}[{index}]" for index in range(num_items))
