"""Lists of messages and tools → `Message`s, in OpenAI's keys and in ShareGPT's.

Every fault of a list is found, not only the first; what cannot be read is left out of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from lorawright.data.findings import Draft, did_you_mean, got, names, nearest, quote
from lorawright.types import Message, Role, ToolCall

FUNCTION_CALL = "function_call"
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

OWN_KEYS = frozenset(
    ("role", "content", "from", "value", "tool_calls", FUNCTION_CALL, "train", "weight", "tools")
)
OPTIONAL_KEYS = ("tool_calls", FUNCTION_CALL, "train", "weight", "tools")
FREE_KEYS = ("name", "id", "tool_call_id", "reasoning_content", "reasoning", "thinking", "tool")


def parse_messages(value: Any, path: str, dialect: Dialect, draft: Draft) -> list[Message]:
    """All messages of a list; faults go to `draft`."""
    if type(value) is not list or not value:
        keys = f"`{dialect.role_key}` and `{dialect.content_key}`"
        draft.find(path, f"{got(value)}, expected a list of messages", f"each has {keys}")
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
        message = _parse_message(item, f"{path}[{index}]", dialect, draft)
        if message is not None:
            messages.append(message)
    return messages


def _parse_message(item: Any, path: str, dialect: Dialect, draft: Draft) -> Message | None:
    if not isinstance(item, dict):
        expected = f"an object with `{dialect.role_key}` and `{dialect.content_key}`"
        draft.find(path, f"{got(item)}, expected {expected}", "a message is one object")
        return None
    if dialect.has_function_call_role and item.get(dialect.role_key) == FUNCTION_CALL:
        role: Role | None = Role.ASSISTANT
        content = None
        calls = _calls_from_text(
            item.get(dialect.content_key), f"{path}.{dialect.content_key}", draft
        )
    else:
        role = _parse_role(item, path, dialect, draft)
        calls = _parse_calls(item, path, role, draft)
        content = _parse_content(item, path, role, dialect, draft)
    train = _parse_train(item, path, draft)
    if item.get("tools") is not None:
        draft.inner_tools.append((f"{path}.tools", item["tools"]))
    extra = _parse_extra(item, path, dialect, draft)
    return None if role is None else Message(role, content, calls, train, extra)


def _parse_role(item: dict[str, Any], path: str, dialect: Dialect, draft: Draft) -> Role | None:
    key = dialect.role_key
    if key not in item:
        _missing(item, key, path, draft)
        return None
    name = item[key]
    if isinstance(name, str) and name in dialect.roles:
        return dialect.roles[name]
    what = f"is {quote(name)}" if isinstance(name, str) and name else got(name)
    hint = "write one of them"
    if isinstance(name, str) and name:
        known = (*dialect.expected.split(", "), *dialect.roles)
        hint = did_you_mean(name, known, hint)
    draft.find(f"{path}.{key}", f"{what}, expected one of: {dialect.expected}", hint)
    return None


def _missing(item: dict[str, Any], key: str, path: str, draft: Draft) -> None:
    for found in item:
        if found not in OWN_KEYS and nearest(found, (key,)):
            draft.find(
                f"{path}.{key}", f"is missing, found {quote(found)}", f"did you mean `{key}`?"
            )
            return
    draft.find(f"{path}.{key}", f"is missing, the message has {names(item)}", f"add `{key}`")


def _parse_content(
    item: dict[str, Any], path: str, role: Role | None, dialect: Dialect, draft: Draft
) -> str | None:
    key = dialect.content_key
    value = item.get(key)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _join_parts(value, f"{path}.{key}", draft)
    if value is not None:
        draft.find(f"{path}.{key}", f"{got(value)}, expected text", _hint_for_content(value))
    elif role in (Role.ASSISTANT, None) and (item.get("tool_calls") or item.get(FUNCTION_CALL)):
        return None
    elif key in item:
        hint = "only an assistant message with tool_calls may go without"
        draft.find(f"{path}.{key}", "is null, expected text", hint)
    else:
        _missing(item, key, path, draft)
    return None


def _hint_for_content(value: Any) -> str:
    if isinstance(value, dict):
        return "write the object as JSON text"
    return "put it in quotes" if isinstance(value, int | float) else "write it as text"


def _join_parts(parts: list[Any], path: str, draft: Draft) -> str:
    texts = []
    for index, part in enumerate(parts):
        here = f"{path}[{index}]"
        if not isinstance(part, dict):
            draft.find(here, f"{got(part)}, expected a text part", _TEXT_PART)
        elif part.get("type") != "text":
            kind = part.get("type")
            what = f"is {quote(kind)}" if isinstance(kind, str) and kind else got(kind)
            draft.find(f"{here}.type", f"{what}, expected `text`", "only text can be trained")
        elif not isinstance(part.get("text"), str):
            draft.find(f"{here}.text", f"{got(part.get('text'))}, expected text", _TEXT_PART)
        else:
            texts.append(part["text"])
    return "".join(texts)


_TEXT_PART = 'a part is {"type": "text", "text": "..."}'


def _parse_train(item: dict[str, Any], path: str, draft: Draft) -> bool | None:
    train, weight = item.get("train"), item.get("weight")
    if train is not None and not isinstance(train, bool):
        draft.find(f"{path}.train", f"{got(train)}, expected true or false", "or leave it out")
        return None
    if weight is None:
        return train
    if isinstance(weight, bool) or weight not in (0, 1):
        draft.find(f"{path}.weight", f"{got(weight)}, expected 0 or 1", "or leave it out")
    elif train is not None and train != bool(weight):
        draft.find(f"{path}.weight", "says the opposite of `train`", "keep one of the two")
    return bool(weight)


def _parse_extra(item: dict[str, Any], path: str, dialect: Dialect, draft: Draft) -> dict[str, Any]:
    others = {"role", "content", "from", "value"} - {dialect.role_key, dialect.content_key}
    extra = {}
    for key, value in item.items():
        if value is None:
            continue
        if key in others:
            message = f"stands beside `{dialect.role_key}` and `{dialect.content_key}`"
            draft.find(f"{path}.{key}", message, "keep one pair of keys")
        elif key not in OWN_KEYS:
            near = None if key in FREE_KEYS else nearest(key, OPTIONAL_KEYS)
            if near and item.get(near) is None:
                draft.find(f"{path}.{key}", "is an unknown key", f"did you mean `{near}`?")
            extra[key] = value
    return extra


def _parse_calls(
    item: dict[str, Any], path: str, role: Role | None, draft: Draft
) -> tuple[ToolCall, ...]:
    calls, legacy = item.get("tool_calls"), item.get(FUNCTION_CALL)
    if not calls and not legacy and (calls is None or calls == []):
        return ()
    is_legacy = bool(legacy) and not calls
    key = FUNCTION_CALL if is_legacy else "tool_calls"
    here = f"{path}.{key}"
    if calls and legacy:
        draft.find(f"{path}.{FUNCTION_CALL}", "stands beside tool_calls", "keep one of the two")
    if role not in (Role.ASSISTANT, None):
        draft.find(here, f"stands in a {role} message", "only the assistant calls tools")
    if is_legacy:
        found = [_parse_call(legacy, here, draft)]
    elif isinstance(calls, list):
        found = [_parse_call(call, f"{here}[{index}]", draft) for index, call in enumerate(calls)]
    else:
        draft.find(here, f"{got(calls)}, expected a list of calls", _CALL)
        found = []
    return tuple(call for call in found if call is not None)


_CALL = 'a call is {"function": {"name": "...", "arguments": {...}}}'


def _parse_call(call: Any, path: str, draft: Draft) -> ToolCall | None:
    """One call, inside `function` or bare; arguments as an object or as the JSON text of one."""
    if not isinstance(call, dict):
        draft.find(path, f"{got(call)}, expected an object", _CALL)
        return None
    if "function" in call:
        path, call = f"{path}.function", call["function"]
        if not isinstance(call, dict):
            draft.find(path, f"{got(call)}, expected an object", _CALL)
            return None
    name = call.get("name")
    if not isinstance(name, str) or not name:
        what = got(name) if "name" in call else "is missing"
        draft.find(f"{path}.name", f"{what}, expected the tool's name", _CALL)
        name = None
    arguments = _parse_arguments(call, f"{path}.arguments", draft)
    return None if name is None or arguments is None else ToolCall(name, arguments)


def _parse_arguments(call: dict[str, Any], path: str, draft: Draft) -> dict[str, Any] | None:
    hint = "a call without arguments has {}"
    if "arguments" not in call:
        near = next((key for key in call if nearest(key, ("arguments",))), None)
        found = f", found {quote(near)}" if near else ""
        draft.find(path, f"is missing{found}", "did you mean `arguments`?" if near else hint)
        return None
    value = call["arguments"]
    if isinstance(value, str):
        is_json, value = decode(value, path, draft)
        if not is_json:
            return None
        if not isinstance(value, dict):
            draft.find(path, f"as JSON {got(value)}, expected an object", hint)
    elif not isinstance(value, dict):
        draft.find(path, f"{got(value)}, expected an object or its JSON text", hint)
    return value if isinstance(value, dict) else None


def decode(text: str, path: str, draft: Draft) -> tuple[bool, Any]:
    """JSON inside a text: (whether it is JSON, its value)."""
    try:
        return True, orjson.loads(text)
    except orjson.JSONDecodeError as error:
        near = quote(text[max(0, error.pos - 20) : error.pos + 20])
        what = f"is text that is not JSON: {error.msg} at character {error.pos + 1}, near {near}"
        if not text.strip():
            what = "is empty text, expected JSON"
        draft.find(path, what, "write it as JSON, with double quotes")
        return False, None


def _calls_from_text(value: Any, path: str, draft: Draft) -> tuple[ToolCall, ...]:
    """The text of a `function_call` turn: one call as JSON, or a list of them."""
    if isinstance(value, str):
        is_json, value = decode(value, path, draft)
        if not is_json:
            return ()
    if isinstance(value, dict):
        found = [_parse_call(value, path, draft)]
    elif isinstance(value, list) and value:
        found = [_parse_call(call, f"{path}[{index}]", draft) for index, call in enumerate(value)]
    else:
        hint = 'a call is {"name": "...", "arguments": {...}}'
        draft.find(path, f"{got(value)}, expected a call or a list of calls as JSON", hint)
        found = []
    return tuple(call for call in found if call is not None)


def parse_tools(row: dict[str, Any], draft: Draft) -> tuple[Mapping[str, Any], ...] | None:
    """Tools of a row (`tools`, or `tool`), or of one of its messages; kept exactly as given."""
    places = [(key, row[key]) for key in ("tools", "tool") if row.get(key) not in (None, "")]
    places += draft.inner_tools
    if not places:
        return None
    for path, _ in places[1:]:
        draft.find(path, f"tools stand in `{places[0][0]}` too", "keep one list of tools")
    path, value = places[0]
    if isinstance(value, str):
        is_json, value = decode(value, path, draft)
        if not is_json:
            return None
    if not isinstance(value, list):
        draft.find(path, f"{got(value)}, expected a list of tools", _TOOL)
        return None
    for index, tool in enumerate(value):
        _check_tool(tool, f"{path}[{index}]", draft)
    return tuple(value) or None


_TOOL = (
    'a tool is {"type": "function", "function": {"name": "...", ...}} or bare {"name": "...", ...}'
)


def _check_tool(tool: Any, path: str, draft: Draft) -> None:
    if isinstance(tool, dict) and "function" in tool:
        path, tool = f"{path}.function", tool["function"]
    if not isinstance(tool, dict):
        draft.find(path, f"{got(tool)}, expected an object", _TOOL)
    elif not isinstance(tool.get("name"), str) or not tool["name"]:
        what = got(tool["name"]) if "name" in tool else "is missing"
        draft.find(f"{path}.name", f"{what}, expected the tool's name", _TOOL)


@lru_cache(maxsize=1024)
def item_paths(key: str, num_items: int) -> tuple[str, ...]:
    return tuple(f"{key}[{index}]" for index in range(num_items))
