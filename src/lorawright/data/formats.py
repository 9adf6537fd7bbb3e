"""A raw row in one of four formats → a `ParsedRow`, or everything that is wrong with it.

The formats:
    messages           {"messages": [{"role": "user", "content": "Hi"}, ...], "tools": [...]}
    sharegpt           {"conversations": [{"from": "human", "value": "Hi"}, ...], "system": "..."}
    alpaca             {"instruction": "...", "input": "...", "output": "...", "history": [...]}
    prompt_completion  {"prompt": "Hi", "completion": "Hello"}, each a text or a list of messages
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lorawright.config.schema import Format
from lorawright.data.messages import (
    FROM_VALUE,
    OPENAI,
    ROLE_CONTENT,
    TOOL_KEYS,
    VARIABLES,
    item_paths,
    parse_messages,
    parse_tools,
    parse_variables,
)
from lorawright.data.problems import Finding, RowErrors, got, names, nearest
from lorawright.types import Message, Role


@dataclass(slots=True)
class ParsedRow:
    """A row whose shape is right.

    Attributes:
        paths: Where in the row each message stands.
        unknown: Keys inside messages that no format knows: (path, key).
        variables: What the row tells the chat template.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None
    paths: tuple[str, ...]
    unknown: list[tuple[str, str]] = field(default_factory=list)
    variables: Mapping[str, Any] = field(default_factory=dict)


Turns = tuple[list[Message], tuple[str, ...]]

COMMON_KEYS = (*TOOL_KEYS, "system", VARIABLES)
KEYS: Mapping[Format, tuple[str, ...]] = {
    Format.MESSAGES: ("messages",),
    Format.SHAREGPT: ("conversations", "messages"),
    Format.ALPACA: ("instruction", "output", "input", "history"),
    Format.PROMPT_COMPLETION: ("prompt", "completion"),
}
KNOWN_KEYS = {format: frozenset((*keys, *COMMON_KEYS)) for format, keys in KEYS.items()}
ALL_KEYS = tuple(dict.fromkeys((*(key for keys in KEYS.values() for key in keys), *COMMON_KEYS)))
EXPECTED_KEYS = "messages; conversations; instruction and output; prompt and completion"


def text_key(row: Mapping[str, Any]) -> str:
    """The key of a message's text in a row of messages: `value` in sharegpt's own spelling."""
    turns = row.get("conversations") or row.get("messages")
    first = turns[0] if isinstance(turns, list) and turns else None
    return "value" if isinstance(first, dict) and "value" in first else "content"


def detect(row: Any) -> Format | None:
    """The format a row looks like; keys that hold null count only if nothing else does."""
    if not isinstance(row, dict):
        return None
    filled = {key for key, value in row.items() if value is not None}
    return _by_keys(row, filled) or _by_keys(row, row.keys())


def _by_keys(row: dict[str, Any], keys: Any) -> Format | None:
    if "messages" in keys:
        return Format.SHAREGPT if _is_from_value(row["messages"]) else Format.MESSAGES
    if "conversations" in keys:
        return Format.SHAREGPT
    for needed in (("prompt", "completion"), ("instruction", "output")):
        if needed[0] in keys and needed[1] in keys:
            return Format.PROMPT_COMPLETION if needed[0] == "prompt" else Format.ALPACA
    if "instruction" in keys:
        return Format.ALPACA
    return Format.PROMPT_COMPLETION if "prompt" in keys or "completion" in keys else None


def _is_from_value(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict) or "from" not in first:
        return False
    return first.get("value") is not None or first.get("role") is None


def parse_row(row: Any, format: Format, because: str) -> ParsedRow | list[Finding]:
    """Reads a row in `format`.

    Args:
        row: What stood in the file.
        format: Any but `auto`.
        because: Where the format comes from, for rows in another one: "by train.jsonl:1".
    """
    if type(row) is not dict:
        return [Finding("", f"{got(row)}, expected an object", _a_row(format))]
    errors = RowErrors()
    messages, paths = PARSERS[format](row, errors)
    if row.get("system"):
        messages, paths = _with_system(row["system"], messages, paths, errors)
    tools = parse_tools(row, errors)
    variables = parse_variables(row, errors) if VARIABLES in row else {}
    if not row.keys() <= KNOWN_KEYS[format]:
        _find_slips(row, format, errors)
    if not errors.findings:
        return ParsedRow(tuple(messages), tools, paths, errors.unknown, variables)
    looks = detect(row)
    if looks is not None and looks is not format:
        message = f"looks like {looks}, but the format of this file is {format} ({because})"
        return [Finding("", message, "one format a file: move the row to a file of its own")]
    return errors.findings


def unknown_format(row: Any) -> list[Finding]:
    """What to say of a row that looks like no format."""
    if not isinstance(row, dict):
        return [Finding("", f"{got(row)}, expected an object", f"with keys {EXPECTED_KEYS}")]
    for key in row:
        near = nearest(key, ALL_KEYS) if key else None
        if near and key not in ALL_KEYS:
            return [Finding(key, "is an unknown key", f"did you mean `{near}`?")]
    found = f"has the keys {names(row)}" if row else "is an empty object"
    return [Finding("", f"{found}, which are no chat", f"expected {EXPECTED_KEYS}")]


def _a_row(format: Format) -> str:
    return f"a row in format {format} has the keys {' and '.join(KEYS[format][:2])}"


def _find_slips(row: dict[str, Any], format: Format, errors: RowErrors) -> None:
    known = (*KEYS[format], *COMMON_KEYS)
    for key in row:
        near = nearest(key, known) if key and key not in known else None
        if near and row.get(near) is None and row[key] is not None:
            errors.findings = [f for f in errors.findings if f.path != near]
            errors.find(key, "is an unknown key", f"did you mean `{near}`?")


def _with_system(
    system: Any, messages: list[Message], paths: tuple[str, ...], errors: RowErrors
) -> Turns:
    if not isinstance(system, str):
        errors.find("system", f"{got(system)}, expected text", "or leave it out")
    elif messages and messages[0].role is Role.SYSTEM:
        errors.find("system", "stands beside a system message", "keep one of the two")
    else:
        return [Message(Role.SYSTEM, system), *messages], ("system", *paths)
    return messages, paths


def _text(row: dict[str, Any], key: str, errors: RowErrors) -> str:
    value = row.get(key)
    if isinstance(value, str):
        return value
    what = got(value) if key in row else f"is missing, the row has {names(row)}"
    errors.find(key, f"{what}, expected text", "write it as text")
    return ""


def _parse_openai(row: dict[str, Any], errors: RowErrors) -> Turns:
    if "messages" not in row:
        return _no_messages(row, "messages", errors)
    messages = parse_messages(row["messages"], "messages", OPENAI, errors)
    return messages, item_paths("messages", len(messages))


def _no_messages(row: dict[str, Any], key: str, errors: RowErrors) -> Turns:
    errors.find(key, f"is missing, the row has {names(row)}", f"expected a list under `{key}`")
    return [], ()


def _parse_sharegpt(row: dict[str, Any], errors: RowErrors) -> Turns:
    """An assistant's text directly before its `function_call` becomes one message with it: both
    are the same turn, and chat templates write them as one."""
    key = "conversations" if row.get("conversations") is not None else "messages"
    if key not in row:
        return _no_messages(row, "conversations", errors)
    dialect = FROM_VALUE if _is_from_value(row[key]) else ROLE_CONTENT
    messages = parse_messages(row[key], key, dialect, errors)
    paths = item_paths(key, len(messages))
    if any(message.tool_calls for message in messages):
        return _merge_calls(messages, paths)
    return messages, paths


def _merge_calls(messages: list[Message], paths: tuple[str, ...]) -> Turns:
    merged: list[Message] = []
    kept: list[str] = []
    for message, path in zip(messages, paths, strict=False):
        before = merged[-1] if merged else None
        if (
            before is not None
            and before.role is Role.ASSISTANT
            and not before.tool_calls
            and message.role is Role.ASSISTANT
            and message.tool_calls
            and message.content is None
            and before.train == message.train
        ):
            extra = {**before.extra, **message.extra}
            merged[-1] = replace(before, tool_calls=message.tool_calls, extra=extra)
        else:
            merged.append(message)
            kept.append(path)
    return merged, tuple(kept)


def _parse_alpaca(row: dict[str, Any], errors: RowErrors) -> Turns:
    """`history` comes first; a user turn is the instruction, a line end and the input, if any."""
    messages: list[Message] = []
    paths: list[str] = []
    history = row.get("history")
    if history:
        _parse_history(history, messages, paths, errors)
    user = _text(row, "instruction", errors)
    given = row.get("input")
    if given:
        added = _text(row, "input", errors)
        user = f"{user}\n{added}" if user else added
    elif given is not None and not isinstance(given, str):
        errors.find("input", f"{got(given)}, expected text", "or leave it out")
    messages += (Message(Role.USER, user), Message(Role.ASSISTANT, _text(row, "output", errors)))
    return messages, (*paths, "instruction", "output")


def _parse_history(
    history: Any, messages: list[Message], paths: list[str], errors: RowErrors
) -> None:
    hint = 'history is [["question", "answer"], ...]'
    if not isinstance(history, list):
        errors.find("history", f"{got(history)}, expected a list of pairs", hint)
        return
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            what = f"has {len(pair)} texts" if isinstance(pair, list) else got(pair)
            errors.find(f"history[{index}]", f"{what}, expected a question and its answer", hint)
            continue
        for side, (role, text) in enumerate(zip((Role.USER, Role.ASSISTANT), pair, strict=True)):
            path = f"history[{index}][{side}]"
            if isinstance(text, str):
                messages.append(Message(role, text))
                paths.append(path)
            else:
                errors.find(path, f"{got(text)}, expected text", hint)


def _parse_prompt_completion(row: dict[str, Any], errors: RowErrors) -> Turns:
    """The prompt is not trained, unless one of its messages says so itself."""
    prompt, paths = _side(row, "prompt", Role.USER, errors)
    prompt = [replace(m, train=False) if m.train is None else m for m in prompt]
    completion, more_paths = _side(row, "completion", Role.ASSISTANT, errors)
    return prompt + completion, paths + more_paths


def _side(row: dict[str, Any], key: str, role: Role, errors: RowErrors) -> Turns:
    value = row.get(key)
    if isinstance(value, str):
        return [Message(role, value)], (key,)
    if isinstance(value, list):
        messages = parse_messages(value, key, OPENAI, errors)
        return messages, item_paths(key, len(messages))
    what = got(value) if key in row else f"is missing, the row has {names(row)}"
    errors.find(
        key, f"{what}, expected text or a list of messages", _a_row(Format.PROMPT_COMPLETION)
    )
    return [], ()


PARSERS: Mapping[Format, Callable[[dict[str, Any], RowErrors], Turns]] = {
    Format.MESSAGES: _parse_openai,
    Format.SHAREGPT: _parse_sharegpt,
    Format.ALPACA: _parse_alpaca,
    Format.PROMPT_COMPLETION: _parse_prompt_completion,
}
