"""Tool calls as they are written in messages → `ToolCall`s."""

from __future__ import annotations

from typing import Any

import orjson

from lorawright.data.json_rows import exact_inside
from lorawright.data.problems import RowErrors, got, nearest, quote
from lorawright.types import Role, ToolCall

FUNCTION_CALL = "function_call"
CALL_KEYS = frozenset(("id", "type", "index", "function", "name", "arguments"))


def parse_calls(
    item: dict[str, Any], path: str, role: Role | None, errors: RowErrors
) -> tuple[ToolCall, ...]:
    calls, legacy = item.get("tool_calls"), item.get(FUNCTION_CALL)
    if not calls and not legacy and (calls is None or calls == []):
        return ()
    is_legacy = bool(legacy) and not calls
    key = FUNCTION_CALL if is_legacy else "tool_calls"
    here = f"{path}.{key}"
    if calls and legacy:
        errors.find(f"{path}.{FUNCTION_CALL}", "stands beside tool_calls", "keep one of the two")
    if role not in (Role.ASSISTANT, None):
        errors.find(here, f"stands in a {role} message", "only the assistant calls tools")
    if is_legacy:
        found = [parse_call(legacy, here, errors)]
    elif isinstance(calls, list):
        found = [parse_call(call, f"{here}[{index}]", errors) for index, call in enumerate(calls)]
    else:
        errors.find(here, f"{got(calls)}, expected a list of calls", _CALL)
        found = []
    return tuple(call for call in found if call is not None)


_CALL = 'a call is {"function": {"name": "...", "arguments": {...}}}'


def parse_call(call: Any, path: str, errors: RowErrors) -> ToolCall | None:
    """One call, inside `function` or bare; arguments as an object or as the JSON text of one."""
    if not isinstance(call, dict):
        errors.find(path, f"{got(call)}, expected an object", _CALL)
        return None
    identity = _parse_id(call.get("id"), f"{path}.id", errors)
    _note_unknown(call, path, errors)
    if "function" in call:
        path, call = f"{path}.function", call["function"]
        if not isinstance(call, dict):
            errors.find(path, f"{got(call)}, expected an object", _CALL)
            return None
        _note_unknown(call, path, errors)
    name = call.get("name")
    if not isinstance(name, str) or not name:
        what = got(name) if "name" in call else "is missing"
        errors.find(f"{path}.name", f"{what}, expected the tool's name", _CALL)
        name = None
    arguments = _parse_arguments(call, f"{path}.arguments", errors)
    return None if name is None or arguments is None else ToolCall(name, arguments, identity)


def _note_unknown(call: dict[str, Any], path: str, errors: RowErrors) -> None:
    errors.unknown += [(f"{path}.{key}", key) for key in call if key not in CALL_KEYS]


def _parse_id(value: Any, path: str, errors: RowErrors) -> str | None:
    """The call's id: some templates write it (Mistral, Kimi)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, str):
        return value or None
    errors.find(path, f"{got(value)}, expected text", "or leave it out")
    return None


def _parse_arguments(call: dict[str, Any], path: str, errors: RowErrors) -> dict[str, Any] | None:
    hint = "a call without arguments has {}"
    if "arguments" not in call:
        near = next((key for key in call if nearest(key, ("arguments",))), None)
        found = f", found {quote(near)}" if near else ""
        errors.find(path, f"is missing{found}", "did you mean `arguments`?" if near else hint)
        return None
    value = call["arguments"]
    if isinstance(value, str):
        is_json, value = decode(value, path, errors)
        if not is_json:
            return None
        if not isinstance(value, dict):
            errors.find(path, f"as JSON {got(value)}, expected an object", hint)
    elif not isinstance(value, dict):
        errors.find(path, f"{got(value)}, expected an object or its JSON text", hint)
    return value if isinstance(value, dict) else None


def decode(text: str, path: str, errors: RowErrors) -> tuple[bool, Any]:
    """JSON inside a text: (whether it is JSON, its value)."""
    try:
        return True, exact_inside(text, orjson.loads(text))
    except orjson.JSONDecodeError as error:
        near = quote(text[max(0, error.pos - 20) : error.pos + 20])
        what = f"is text that is not JSON: {error.msg} at character {error.pos + 1}, near {near}"
        if not text.strip():
            what = "is empty text, expected JSON"
        errors.find(path, what, "write it as JSON, with double quotes")
        return False, None


def calls_from_text(value: Any, path: str, errors: RowErrors) -> tuple[ToolCall, ...]:
    """The text of a `function_call` turn: one call as JSON, or a list of them."""
    if isinstance(value, str):
        is_json, value = decode(value, path, errors)
        if not is_json:
            return ()
    if isinstance(value, dict):
        found = [parse_call(value, path, errors)]
    elif isinstance(value, list) and value:
        found = [parse_call(call, f"{path}[{index}]", errors) for index, call in enumerate(value)]
    else:
        hint = 'a call is {"name": "...", "arguments": {...}}'
        errors.find(path, f"{got(value)}, expected a call or a list of calls as JSON", hint)
        found = []
    return tuple(call for call in found if call is not None)
