"""Remarks: one a file and name, with a count and the first address; nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from lorawright.config.schema import DataSettings
from lorawright.data import Reader
from lorawright.data.remarks import MOST_NAMES, unfilled
from lorawright.types import Conversation, Kind, Message, Problem, Role, Severity


def row(answer: str, question: str = "Who are you?", **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, **more},
        ]
    }


def run(path: Path, rows: list[dict[str, Any]]) -> tuple[Reader, int, list[Problem]]:
    path.write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in rows))
    reader = Reader(DataSettings(train=str(path)))
    items = list(reader)
    num_chats = sum(isinstance(item, Conversation) for item in items)
    return reader, num_chats, [item for item in items if isinstance(item, Problem)]


def test_placeholders_are_one_remark_a_name(tmp_path: Path) -> None:
    rows = [row("I am 0.")]
    rows += [row(f"I am {{{{name}}}}, number {n}, really {{{{name}}}}.") for n in range(9)]
    rows += [row("Made by {{ AUTHOR }}.")]
    path = tmp_path / "x.jsonl"
    _, num_chats, problems = run(path, rows)
    assert num_chats == 11, "all are kept"
    assert [(p.line, p.path, p.kind, p.severity) for p in problems] == [
        (2, "messages[1]", Kind.PLACEHOLDER, Severity.WARNING),
        (11, "messages[1]", Kind.PLACEHOLDER, Severity.WARNING),
    ]
    assert "`{{name}}`" in problems[0].message and "9 rows" in problems[0].message


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("我是{{name}}，由{{作者}}训练。", ["{{name}}", "{{作者}}"]),
        ('Call me "{{ NAME }}".', ["{{ NAME }}"]),
        ("I'm {{your name}}!", ["{{your name}}"]),
        ("```jinja\nHello {{ name }}\n```", []),
        ("```\nnot closed {{ name }}", []),
        ("Write `{{ name }}` there.", []),
        ("on: ${{ secrets }}, f'{{{name}}}'", []),
        (r"\frac{{a}}{{b}} x_{{n}} y^{{k}}", []),
        ('{{"name": 1}} {{1}} {{}} {{ }} { {name} }', []),
        ("<b>{{ name }}</b> style={{color}}", []),
        ("{{a.b}} {{ x | upper }} {{ f(x) }}", []),
    ],
)
def test_what_is_a_placeholder(answer: str, found: list[str]) -> None:
    assert unfilled(Message(Role.ASSISTANT, answer)) == found
    assert unfilled(Message(Role.USER, answer)) == []
    assert unfilled(Message(Role.ASSISTANT, answer, train=False)) == []


def test_a_file_of_templates_has_a_bounded_number_of_remarks(tmp_path: Path) -> None:
    rows = [row(f"It is {{{{name{n}}}}}, {n}.", f"{n}?") for n in range(100)]
    _, _, problems = run(tmp_path / "x.jsonl", rows)
    assert len(problems) == MOST_NAMES


def test_unknown_keys_of_messages_are_counted(tmp_path: Path) -> None:
    rows = [row(f"I am {n}.", mood="good" if n else None, name="Bo") for n in range(4)]
    reader, num_chats, (problem,) = run(tmp_path / "x.jsonl", rows)
    assert num_chats == 4
    assert reader.found[0].unused_message_keys == {"mood": 3}
    assert (problem.line, problem.path) == (2, "messages[1].mood")
    assert (problem.kind, problem.severity) == (Kind.UNKNOWN_KEY, Severity.WARNING)
    assert "3 rows" in problem.message
