"""A Go template and values → the text that Ollama renders: the part of Go's text/template it uses.

    render('{{ range .Messages }}{{ .Role }}: {{ .Content }}\\n{{ end }}', {"Messages": […]})

Actions: `if`, `else if`, `else`, `range` over lists and maps (sorted by key), `end`, `$x := …`,
`$x = …`, fields, `$`, strings, numbers, true and false, parentheses, trim marks; functions: those
in `FUNCTIONS`. What it does not know is an error, never skipped. Semantics: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
TOKEN = re.compile(
    r"\s*(?:(?P<string>\"(?:\\.|[^\"\\])*\")|(?P<number>-?\d+)|(?P<open>\()|(?P<close>\))"
    r"|(?P<path>\$?[A-Za-z_0-9]*(?:\.[A-Za-z_0-9]+)+|\.|\$[A-Za-z_0-9]*)|(?P<word>[A-Za-z_]+))"
)
ASSIGN = re.compile(r"(?P<name>\$\w+)\s*(?P<sign>:?=)\s*(?P<value>.*)", re.DOTALL)
Names = ChainMap[str, Any]


class GoTemplateError(ValueError):
    """A template that this does not read, or that Go would refuse."""


def to_json(value: Any) -> str:
    """As Go's encoding/json: compact, maps sorted, <, > and & escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, other: first != other,
    "not": lambda value: not value,
    "len": len,
    "slice": lambda value, start: value[start:],
    "json": to_json,
    "and": lambda *values: next((v for v in values if not v), values[-1]),
    "or": lambda *values: next((v for v in values if v), values[-1]),
}


@dataclass(frozen=True, slots=True)
class _Branch:
    """`if` or `range`: a condition, what follows, what else."""

    word: str
    pipeline: str
    body: list[Any]
    other: list[Any]


def render(source: str, data: Mapping[str, Any]) -> str:
    """What the template writes for these values.

    Raises:
        GoTemplateError: An action that is not known here, or a name that is not there.
    """
    pieces = _split(source)
    nodes, stop = _parse(pieces)
    if stop is not None:
        raise GoTemplateError(f"{stop!r} closes nothing")
    return _execute(nodes, data, ChainMap({"$": data, "true": True, "false": False}))


def _split(source: str) -> list[tuple[str, str]]:
    """[('text', …), ('action', …), …] in reverse order, trim marks applied."""
    pieces: list[tuple[str, str]] = []
    position, trims = 0, False
    for action in ACTION.finditer(source):
        text = source[position : action.start()]
        text = text.lstrip() if trims else text
        pieces.append(("text", text.rstrip() if action[1] else text))
        pieces.append(("action", action[2]))
        position, trims = action.end(), bool(action[3])
    text = source[position:]
    pieces.append(("text", text.lstrip() if trims else text))
    return pieces[::-1]


def _parse(pieces: list[tuple[str, str]]) -> tuple[list[Any], str | None]:
    """Nodes up to the `else` or `end` that closes them, and that action."""
    nodes: list[Any] = []
    while pieces:
        kind, content = pieces.pop()
        word = content.split()[0] if kind == "action" and content else ""
        if kind == "text":
            nodes.append(content)
        elif word in ("else", "end"):
            return nodes, content
        elif word in ("if", "range"):
            nodes.append(_branch(word, content.removeprefix(word).strip(), pieces))
        elif word:
            nodes.append(("action", content))
    return nodes, None


def _branch(word: str, pipeline: str, pieces: list[tuple[str, str]]) -> _Branch:
    body, stop = _parse(pieces)
    other: list[Any] = []
    if stop is not None and stop.startswith("else if"):
        other = [_branch("if", stop.removeprefix("else if").strip(), pieces)]
    elif stop == "else":
        other, stop = _parse(pieces)
        if stop != "end":
            raise GoTemplateError(f"{word} {pipeline} has no end")
    elif stop != "end":
        raise GoTemplateError(f"{word} {pipeline} has no end")
    return _Branch(word, pipeline, body, other)


def _execute(nodes: Sequence[Any], dot: Any, outer: Names) -> str:
    written: list[str] = []
    names = outer.new_child()  # a variable lives to the end of its block
    for node in nodes:
        if isinstance(node, str):
            written.append(node)
        elif isinstance(node, _Branch):
            written.append(_execute_branch(node, dot, names))
        elif match := ASSIGN.match(node[1]):
            value = _evaluate(match["value"], dot, names)
            scopes = names.maps if match["sign"] == "=" else names.maps[:1]
            known = (scope for scope in scopes if match["name"] in scope)
            next(known, names.maps[0])[match["name"]] = value
        else:
            written.append(_text(_evaluate(node[1], dot, names)))
    return "".join(written)


def _execute_branch(node: _Branch, dot: Any, names: Names) -> str:
    if node.word == "if":
        chosen = node.body if _evaluate(node.pipeline, dot, names) else node.other
        return _execute(chosen, dot, names)
    match = re.match(r"(\$\w+)\s*,\s*(\$\w+)\s*:=\s*(.*)", node.pipeline, re.DOTALL)
    values = _evaluate(match[3] if match else node.pipeline, dot, names)
    pairs = sorted(values.items()) if isinstance(values, Mapping) else enumerate(values or [])
    written = []
    for key, value in pairs:
        inner = names.new_child({match[1]: key, match[2]: value} if match else {})
        written.append(_execute(node.body, value, inner))
    return "".join(written) if written else _execute(node.other, dot, names)


def _evaluate(pipeline: str, dot: Any, names: Mapping[str, Any]) -> Any:
    tokens: list[tuple[str, str]] = []
    position = 0
    pipeline = pipeline.strip()
    while position < len(pipeline):
        match = TOKEN.match(pipeline, position)
        if match is None or match.end() == position:
            raise GoTemplateError(f"cannot read {pipeline[position:]!r} in {pipeline!r}")
        assert match.lastgroup is not None
        tokens.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    tokens.reverse()
    value = _command(tokens, dot, names)
    if tokens:
        raise GoTemplateError(f"cannot read all of {pipeline!r}")
    return value


def _command(tokens: list[tuple[str, str]], dot: Any, names: Mapping[str, Any]) -> Any:
    """A function with its arguments, or one value."""
    kind, text = tokens[-1]
    if kind != "word" or text in names:
        return _operand(tokens, dot, names)
    tokens.pop()
    if text not in FUNCTIONS:
        raise GoTemplateError(f"function {text!r} is not defined")
    arguments = []
    while tokens and tokens[-1][0] != "close":
        arguments.append(_operand(tokens, dot, names))
    return FUNCTIONS[text](*arguments)


def _operand(tokens: list[tuple[str, str]], dot: Any, names: Mapping[str, Any]) -> Any:
    kind, text = tokens.pop()
    if kind == "string":
        return json.loads(text)
    if kind == "number":
        return int(text)
    if kind == "open":
        value = _command(tokens, dot, names)
        if not tokens or tokens.pop()[0] != "close":
            raise GoTemplateError("a parenthesis is not closed")
        return value
    if kind == "word" and text in names:
        return names[text]
    if kind == "path":
        return _field(text, dot, names)
    raise GoTemplateError(f"cannot read {text!r}")


def _field(path: str, dot: Any, names: Mapping[str, Any]) -> Any:
    first, *rest = path.split(".")
    if first and first not in names:
        raise GoTemplateError(f"variable {first} is not defined")
    value = names[first] if first else dot
    for name in filter(None, rest):
        if not isinstance(value, Mapping) or name not in value:
            raise GoTemplateError(f"{path}: nothing is called {name}")
        value = value[name]
    return value


def _text(value: Any) -> str:
    """As Go prints it; Ollama's own types for tools and arguments print as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return to_json(value) if isinstance(value, (Mapping, list)) else str(value)
