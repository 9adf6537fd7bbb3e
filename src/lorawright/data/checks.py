"""What a chat of the right shape can still have wrong, one function a rule, and what makes two
chats equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from lorawright.data.formats import ParsedRow
from lorawright.data.problems import Finding
from lorawright.types import Kind, Role, ToolCall

DIGEST_BYTES = 16


def all_findings(chat: ParsedRow) -> list[Finding]:
    """All rules below on one chat."""
    if _is_plain(chat):
        return []
    return role_order(chat) + empty_answers(chat) + no_assistant(chat)


def _is_plain(chat: ParsedRow) -> bool:
    """System, then user and assistant in turn, all with text: no rule has anything to say.

    Worth 2 us of 14 a row, as nearly all rows are like that.
    """
    messages = chat.messages
    first = 1 if messages[0].role is Role.SYSTEM else 0
    if len(messages) < first + 2:
        return False
    expected = Role.USER
    for message in messages[first:]:
        content = message.content
        if message.role is not expected or not content or content.isspace():
            return False
        expected = Role.ASSISTANT if expected is Role.USER else Role.USER
    return True


def role_order(chat: ParsedRow) -> list[Finding]:
    """A user starts, nobody but a tool speaks twice in a row, tools speak only when called.

    System messages may stand anywhere; the last turn may be anyone's.
    """
    findings: list[Finding] = []
    previous: Role | None = None
    may_answer = False
    for index, message in enumerate(chat.messages):
        role = message.role
        if role is Role.SYSTEM:
            continue
        if role is Role.TOOL:
            if not may_answer:
                findings.append(_tool_out_of_place(chat.paths[index], previous))
        elif previous is None and role is Role.ASSISTANT:
            hint = "a chat starts with a user message, after system messages if any"
            findings.append(_order(chat.paths[index], "the assistant speaks first", hint))
        elif role is previous:
            findings.append(_twice(chat.paths[index], role))
        may_answer = role is Role.TOOL or bool(message.tool_calls)
        previous = role
    return findings


def _order(path: str, message: str, hint: str) -> Finding:
    return Finding(path, message, hint, Kind.ORDER)


def _tool_out_of_place(path: str, previous: Role | None) -> Finding:
    before = f"follows a {previous} message" if previous else "starts the chat"
    if previous is Role.ASSISTANT:
        before = "follows an assistant message without tool_calls"
    hint = "a tool answers an assistant message with tool_calls, or follows another tool"
    return _order(path, f"a tool message {before}", hint)


def _twice(path: str, role: Role) -> Finding:
    if role is Role.USER:
        hint = "join the two messages, or put the answer between them"
        return _order(path, "a second user message in a row", hint)
    hint = (
        "join the two messages (parallel calls: one message), or put the user's turn between them"
    )
    return _order(path, "a second assistant message in a row", hint)


def empty_answers(chat: ParsedRow) -> list[Finding]:
    """Assistant messages that are to be trained and say nothing."""
    return [
        Finding(
            chat.paths[index],
            "the answer is empty" if not message.content else "the answer is only white space",
            "write an answer, remove the row, or set `train: false` on the message",
            Kind.EMPTY_ANSWER,
        )
        for index, message in enumerate(chat.messages)
        if message.role is Role.ASSISTANT
        and not message.tool_calls
        and message.train is not False
        and (not message.content or message.content.isspace())
    ]


def no_assistant(chat: ParsedRow) -> list[Finding]:
    """A chat in which the assistant says nothing has nothing to train."""
    if any(message.role is Role.ASSISTANT for message in chat.messages):
        return []
    message = f"no assistant message among {len(chat.messages)}"
    return [Finding("", message, "add the answer, or remove the row", Kind.UNTRAINED)]


def duplicate(first: str) -> Finding:
    return Finding("", f"the same chat stands at {first}", "remove one of the two", Kind.DUPLICATE)


def leaked(first: str) -> Finding:
    message = f"this evaluation row is in the training set too, at {first}"
    return Finding("", message, "remove it from one of the two sets", Kind.LEAKED)


def digests(chat: ParsedRow) -> tuple[bytes, bytes]:
    """What a chat says, and that together with how it is trained; 16 bytes each.

    Ids of tool calls say nothing: two exports of one chat may differ in them.

    Raises:
        orjson.JSONEncodeError: objects nested deeper than 254 levels, integers beyond 64 bits.
    """
    said = [
        (m.role, m.content, m.tool_calls and _said(m.tool_calls), m.extra and _without_id(m.extra))
        for m in chat.messages
    ]
    dump = orjson.dumps((said, chat.tools), default=str, option=orjson.OPT_SORT_KEYS)
    content = hashlib.blake2b(dump, digest_size=DIGEST_BYTES).digest()
    flags = [m.train for m in chat.messages]
    if flags.count(None) == len(flags) and not chat.variables:
        return content, content
    flagged = content + orjson.dumps(flags)
    if chat.variables:
        flagged += orjson.dumps(chat.variables, option=orjson.OPT_SORT_KEYS)
    return content, hashlib.blake2b(flagged, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class _Said:
    """A call without its id; its two fields in this order are part of every digest there is."""

    name: str
    arguments: Mapping[str, Any]


def _said(calls: tuple[ToolCall, ...]) -> list[_Said]:
    return [_Said(call.name, call.arguments) for call in calls]


def _without_id(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if key != "tool_call_id"}


def split_draw(content: bytes, seed: int) -> float:
    """A number in [0, 1) that depends on what a chat says and the seed, on nothing else."""
    drawn = hashlib.blake2b(b"%d:%b" % (seed, content), digest_size=8)
    return int.from_bytes(drawn.digest()) / 2**64
