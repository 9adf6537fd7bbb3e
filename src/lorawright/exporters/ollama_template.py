"""A model's chat template → the same template in Go, for Ollama, and how the two compare.

    the template, applied to marked chats ─► what it writes around each part ─► one Go template
                                                                                      │
    the same chats through both ─► equal, equal but for the spelling of JSON, or not ◄─┘

No template is assumed: every literal is read off the model's own. A model whose template writes
otherwise than in turns (role, content, end) is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jinja2

from lorawright import masks
from lorawright.errors import ModelError
from lorawright.exporters import go_template
from lorawright.masks import ChatTokenizer
from lorawright.types import Conversation, Message, Role, ToolCall

SYSTEM, USER, ANSWER, RESULT, NAME, VALUE = (f"Zebra{n}" for n in "ABCDEF")
HINT = "use the GGUF with a program that reads its own template: llama.cpp's server with --jinja"


class Match(StrEnum):
    """How two renders compare."""

    EQUAL = "equal"  # character by character
    JSON = "json"  # equal when JSON is written in one way: order of keys, blanks, escapes
    OTHER = "other"  # neither


@dataclass(frozen=True, slots=True)
class Pieces:
    """What the template writes around the parts of a chat.

    Attributes:
        end: Behind every turn.
        opens: Before a system, user and assistant message.
        default: The system turn, up to its end, where a chat has none; with tools `default_tools`.
        tools: Before the list, before each tool, behind the list; None: it knows no tools.
        call: Before a call, between name and arguments, behind them.
        call_opens: Before the first call, without and with content.
        result: Before the first result of a tool, between two, behind the last.
    """

    end: str
    opens: Mapping[Role, str]
    default: str
    default_tools: str
    tools: tuple[str, str, str] | None
    call: tuple[str, str, str]
    call_opens: tuple[str, str]
    call_between: str
    result: tuple[str, str, str]


def make(tokenizer: ChatTokenizer, *, bare_tools: bool = False) -> str:
    """The Go template.

    Args:
        tokenizer: The model's.
        bare_tools: The chats list tools as `{"name": …}`, without `{"type": "function"}` around:
            so must the prompt, although Ollama's own interface has it around.

    Raises:
        ModelError: The model's template does not write turns that this can read off.
    """
    try:
        return _compose(_learn(tokenizer), FUNCTION if bare_tools else TOOL)
    except (jinja2.TemplateError, ValueError) as error:
        raise ModelError(
            f"its chat template cannot be written in Go: {error}", where=tokenizer.name, hint=HINT
        ) from None


def compare(template: str, tokenizer: ChatTokenizer, conversation: Conversation) -> Match:
    """One chat through both templates, as a prompt where its last message is not an answer."""
    messages = list(conversation.messages)
    asks = messages[-1].role is not Role.ASSISTANT
    expected = tokenizer.render(messages, conversation.tools, generation_prompt=asks)
    if not asks:
        # Ollama leaves the last answer open, to be continued
        marks = masks.learn(tokenizer)
        expected = expected.removesuffix(marks.tail).removesuffix(marks.end)
    got = go_template.render(template, ollama_values(messages, conversation.tools))
    if got == expected:
        return Match.EQUAL
    return Match.JSON if _one_json(got) == _one_json(expected) else Match.OTHER


def ollama_values(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """What Ollama hands to a template: neighbours of one role are joined, but for tools' results.

    Source: `collate` and `convert…ForTemplate` in template/template.go of ollama/ollama.
    """
    joined: list[dict[str, Any]] = []
    for message in messages:
        calls = [
            {"Function": {"Name": call.name, "Arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
        if joined and joined[-1]["Role"] == message.role and message.role is not Role.TOOL:
            joined[-1]["Content"] += "\n\n" + (message.content or "")
        else:
            joined.append(
                {
                    "Role": str(message.role),
                    "Content": message.content or "",
                    "ToolCalls": calls,
                }
            )
    given = [m.content or "" for m in messages if m.role is Role.SYSTEM]
    return {
        "System": "\n\n".join(given),
        "Messages": joined,
        "Tools": [_tool(tool) for tool in tools or ()],
    }


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a tool that Ollama keeps."""
    function = tool.get("function", tool)
    parameters = function.get("parameters") or {}
    return {
        "Type": tool.get("type", "function"),
        "Function": {
            "Name": function["name"],
            "Description": function.get("description", ""),
            "Parameters": {
                "Type": parameters.get("type", ""),
                "Required": parameters.get("required", []),
                "Properties": parameters.get("properties", {}),
            },
        },
    }


def _learn(tokenizer: ChatTokenizer) -> Pieces:
    marks = masks.learn(tokenizer)
    end = marks.end + marks.tail
    system, user = Message(Role.SYSTEM, SYSTEM), Message(Role.USER, USER)
    answer = Message(Role.ASSISTANT, ANSWER)
    whole = tokenizer.render([system, user, answer, user], None)
    before, between, header, again, after = _cut(whole, SYSTEM, USER, ANSWER, USER)
    opens = {
        Role.SYSTEM: before,
        Role.USER: between.removeprefix(end),
        Role.ASSISTANT: header.removeprefix(end),
    }
    if between != end + opens[Role.USER] or again != between or after != end:
        raise ValueError(f"its turns do not end alike, with {end!r}")
    (alone, _) = _cut(tokenizer.render([user], None), USER)
    default = alone.removesuffix(opens[Role.USER])
    if not alone.endswith(opens[Role.USER]) or (default and not default.endswith(end)):
        raise ValueError("it writes something before the first user message")
    tools, default_tools = _learn_tools(tokenizer, [system, user], opens, end)
    return Pieces(
        end=end,
        opens=opens,
        default=default.removesuffix(end),
        default_tools=default_tools,
        tools=tools,
        **_learn_calls(tokenizer, user, opens, end),
    )


def _learn_tools(
    tokenizer: ChatTokenizer, asked: Sequence[Message], opens: Mapping[Role, str], end: str
) -> tuple[tuple[str, str, str] | None, str]:
    """Around the list of tools; and what stands for the system message where there is none."""
    tools = [
        {"type": "function", "function": {"name": f"zebra_{n}", "description": "d"}} for n in "ab"
    ]
    spelled = [json.dumps(tool) for tool in tools]
    text = tokenizer.render(asked, tools)
    if spelled[0] not in text:
        return None, ""
    _, first, between, rest = _cut(text, SYSTEM, *spelled)
    behind, _ = _cut(rest, USER)
    behind = behind.removesuffix(end + opens[Role.USER])
    before_each = _shared_end(first, between)
    bare, _ = _cut(tokenizer.render(asked[1:], tools), spelled[0])
    if before_each != between or not bare.endswith(first):
        raise ValueError("it lists tools in another way than one after the other")
    return (first.removesuffix(between), between, behind), bare.removesuffix(first)


def _learn_calls(
    tokenizer: ChatTokenizer, user: Message, opens: Mapping[Role, str], end: str
) -> dict[str, Any]:
    """Around calls of tools and their results."""
    calls = tuple(ToolCall(f"{NAME}{n}", {f"{VALUE}{n}": n}) for n in range(2))
    spelled = [json.dumps(dict(call.arguments)) for call in calls]
    results = [Message(Role.TOOL, f"{RESULT}{n}") for n in range(2)]
    made = Message(Role.ASSISTANT, None, calls)
    text = tokenizer.render([user, made, *results, user], None)
    first, rest = _cut(text, calls[0].name)
    mid, between, mid_again, tail, next_result, last, _ = _cut(
        rest, spelled[0], calls[1].name, spelled[1], f"{RESULT}0", f"{RESULT}1", USER
    )
    _, first = _cut(first, USER)
    said = Message(Role.ASSISTANT, ANSWER, calls[:1])
    _, with_content = _cut(tokenizer.render([user, said], None).split(calls[0].name)[0], ANSWER)
    after, open_result = _cut(tail, end)
    if mid != mid_again or not first.startswith(end) or not last.endswith(end + opens[Role.USER]):
        raise ValueError("it writes calls of tools in another way than one after the other")
    first = first.removeprefix(end)
    between = between.removeprefix(after)
    shared = _shared_end(first, with_content, between)
    return {
        "call": (shared, mid, after),
        "call_opens": (first.removesuffix(shared), with_content.removesuffix(shared)),
        "call_between": between.removesuffix(shared),
        "result": (open_result, next_result, last.removesuffix(opens[Role.USER])),
    }


def _shared_end(*texts: str) -> str:
    """The longest text that all of these end with."""
    num_equal = 0
    for characters in zip(*(text[::-1] for text in texts), strict=False):
        if len(set(characters)) > 1:
            break
        num_equal += 1
    return texts[0][len(texts[0]) - num_equal :]


def _cut(text: str, *marks: str) -> list[str]:
    """The text between marks that stand in it in this order."""
    parts: list[str] = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise ValueError(f"it does not write {mark!r} where a chat has it")
        parts.append(before)
    return [*parts, text]


def _compose(p: Pieces, tool: str) -> str:
    """The Go template; without line breaks of its own, so that nothing needs trimming.

    Ollama finds the tag of calls as the first text inside the first `if .ToolCalls`
    (tools/template.go), so other conditions on it go through `$m`.
    """
    opened, between, closed = map(_go, p.result)
    return (
        '{{ $before := "" }}{{ range $i, $m := .Messages }}'
        f"{{{{ if not $i }}}}{_head(p, tool)}{{{{ end }}}}"
        "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        f'{{{{ if and (eq $before "tool") (ne .Role "tool") }}}}{closed}{{{{ end }}}}'
        f'{{{{ if eq .Role "user" }}}}{_go(p.opens[Role.USER])}{{{{ .Content }}}}{_go(p.end)}'
        f'{{{{ else if eq .Role "system" }}}}{{{{ if $i }}}}{_go(p.opens[Role.SYSTEM])}'
        f"{{{{ .Content }}}}{_go(p.end)}{{{{ end }}}}"
        f'{{{{ else if eq .Role "assistant" }}}}{_answer(p)}'
        f'{{{{ else if eq .Role "tool" }}}}{{{{ if eq $before "tool" }}}}{between}{{{{ else }}}}'
        f"{opened}{{{{ end }}}}{{{{ .Content }}}}{{{{ if $last }}}}{closed}{{{{ end }}}}"
        "{{ end }}"
        f'{{{{ if and $last (ne .Role "assistant") }}}}{_go(p.opens[Role.ASSISTANT])}{{{{ end }}}}'
        "{{ $before = .Role }}{{ end }}"
    )


def _head(p: Pieces, tool: str) -> str:
    """The system turn, with the list of tools, before the first message."""
    tools = ""
    if p.tools is not None:
        before, before_each, behind = map(_go, p.tools)
        tools = (
            f"{{{{ if $.Tools }}}}{before}{{{{ range $.Tools }}}}{before_each}{tool}{{{{ end }}}}"
            f"{behind}{{{{ end }}}}"
        )
    with_tools = f"{{{{ else if $.Tools }}}}{_go(p.default_tools)}{tools}{_go(p.end)}"
    default = f"{{{{ else }}}}{_go(p.default)}{_go(p.end)}" if p.default else ""
    return (
        f'{{{{ if eq .Role "system" }}}}{_go(p.opens[Role.SYSTEM])}{{{{ .Content }}}}{tools}'
        f"{_go(p.end)}{with_tools if p.tools else ''}{default}{{{{ end }}}}"
    )


def _answer(p: Pieces) -> str:
    before, mid, behind = map(_go, p.call)
    bare, with_content = map(_go, p.call_opens)
    between = f"{{{{ if $j }}}}{_go(p.call_between)}{{{{ end }}}}" if p.call_between else ""
    joint = f"{{{{ if $m.ToolCalls }}}}{with_content}{{{{ end }}}}" if with_content else ""
    opened = _go(p.opens[Role.ASSISTANT])
    return (
        f"{{{{ if .Content }}}}{opened}{{{{ .Content }}}}{joint}"
        f"{{{{ else if $m.ToolCalls }}}}{bare}{{{{ else }}}}{opened}{{{{ end }}}}"
        f"{{{{ if .ToolCalls }}}}{{{{ range $j, $call := .ToolCalls }}}}{between}{before}"
        f"{{{{ .Function.Name }}}}{mid}{_mapping('.Function.Arguments')}{behind}"
        f"{{{{ end }}}}{{{{ end }}}}{{{{ if not $last }}}}{_go(p.end)}{{{{ end }}}}"
    )


def _mapping(path: str) -> str:
    """An object with blanks behind commas and colons, as Python writes it; Go sorts its keys."""
    return (
        '{{ "{" }}{{ $comma := false }}'
        f"{{{{ range $key, $value := {path} }}}}{{{{ if $comma }}}}, {{{{ end }}}}"
        "{{ $comma = true }}{{ json $key }}: {{ json $value }}{{ end }}}"
    )


FUNCTION = (
    '{"name": {{ json .Function.Name }}, "description": {{ json .Function.Description }}, '
    '"parameters": {"type": {{ json .Function.Parameters.Type }}, "properties": '
    + _mapping(".Function.Parameters.Properties")
    + "{{ if .Function.Parameters.Required }}, "
    '"required": {{ json .Function.Parameters.Required }}{{ end }}}}'
)
TOOL = '{"type": {{ json .Type }}, "function": ' + FUNCTION + "}"


def _go(text: str) -> str:
    """Text as it stands in a Go template: braces that would open an action are quoted."""
    if '"""' in text:
        raise ValueError('it writes """, which ends a value in a Modelfile')
    text = text.replace("{{", '{{ "{{" }}')
    return f'{text[:-1]}{{{{ "{{" }}}}' if text.endswith("{") else text


def _one_json(text: str) -> str:
    """The text with every JSON object in it written in one way."""
    decoder = json.JSONDecoder()
    parts: list[str] = []
    position = 0
    while (start := text.find("{", position)) >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            spelled = go_template.to_json(value)
        except ValueError:
            spelled, end = "{", start + 1
        parts += [text[position:start], spelled]
        position = end
    return "".join([*parts, text[position:]])
