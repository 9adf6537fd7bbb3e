"""The whole reader: splits, policies, counts, and every address of a corrupted file."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorawright.config.schema import DataSettings, Format
from lorawright.data import FoundFile, Reader, stream
from lorawright.types import Conversation, Kind, Problem, Severity, Split


def row(answer: str = "Hello", question: str = "Hi", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


def save(path: Path, rows: list[Any]) -> str:
    lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def run(**settings: Any) -> tuple[Reader, list[Conversation], list[Problem]]:
    reader = Reader(DataSettings(**settings))
    items = list(reader)
    chats = [item for item in items if isinstance(item, Conversation)]
    problems = [item for item in items if isinstance(item, Problem)]
    assert reader.counts == Counter((p.split, p.kind) for p in problems)
    assert reader.num_chats == Counter(c.split for c in chats)
    assert list(stream(DataSettings(**settings))) == items, "a pass can be repeated"
    return reader, chats, problems


def test_train_comes_before_eval_and_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    a = save(tmp_path / "train/a.jsonl", [row("1"), row("2", id=7, source="web")])
    b = save(
        tmp_path / "train/b.jsonl",
        [b"", {"instruction": "x", "output": "3"}, {"instruction": "x", "output": "4"}],
    )
    evaluation = save(tmp_path / "eval.jsonl", [{"prompt": "x", "completion": "5"}])
    reader, chats, problems = run(train=str(tmp_path / "train"), eval=evaluation)
    assert problems == []
    assert [(c.file, c.line, c.split, c.messages[-1].content) for c in chats] == [
        (a, 1, Split.TRAIN, "1"),
        (a, 2, Split.TRAIN, "2"),
        (b, 2, Split.TRAIN, "3"),
        (b, 3, Split.TRAIN, "4"),
        (evaluation, 1, Split.EVAL, "5"),
    ]
    assert reader.found == [
        FoundFile(a, Split.TRAIN, Format.MESSAGES, 1, 2, {"id", "source"}),
        FoundFile(b, Split.TRAIN, Format.ALPACA, 2, 2),
        FoundFile(evaluation, Split.EVAL, Format.PROMPT_COMPLETION, 1, 1),
    ]
    assert reader.num_rows == {Split.TRAIN: 4, Split.EVAL: 1}


def test_rows_of_another_format_name_the_row_that_decided(tmp_path: Path) -> None:
    train = save(tmp_path / "x.jsonl", [{"mesages": []}, row(), {"prompt": "a", "completion": "b"}])
    reader, chats, problems = run(train=train)
    assert [c.line for c in chats] == [2]
    assert [(p.line, p.path, p.kind) for p in problems] == [
        (1, "mesages", Kind.SHAPE),
        (3, "", Kind.SHAPE),
    ]
    assert problems[0].hint == "did you mean `messages`?"
    assert f"messages (by its row at {train}:2)" in problems[1].message
    assert reader.found[0].detected_by == 2


def test_a_given_format_is_not_guessed(tmp_path: Path) -> None:
    train = save(tmp_path / "x.jsonl", [row()])
    reader, chats, (problem, *_) = run(train=train, format="alpaca")
    assert chats == [] and "is alpaca (data.format)" in problem.message
    assert (reader.found[0].format, reader.found[0].detected_by) == (Format.ALPACA, None)


BAD_ROWS: dict[str, tuple[Any, Kind]] = {
    "invalid": (b"{", Kind.SYNTAX),
    "empty_answers": (row(" "), Kind.EMPTY_ANSWER),
    "untrained": ({"messages": row()["messages"][:1]}, Kind.UNTRAINED),
    "duplicates": (row(), Kind.DUPLICATE),
}


KEEPABLE = ("empty_answers", "duplicates")


@pytest.mark.parametrize(
    ("key", "policy"),
    [(key, policy) for key in BAD_ROWS for policy in ("error", "drop")]
    + [(key, "keep") for key in KEEPABLE],
)
def test_policies(tmp_path: Path, key: str, policy: str) -> None:
    bad, kind = BAD_ROWS[key]
    train = save(tmp_path / "x.jsonl", [row(), bad, row("other")])
    _, chats, (problem,) = run(train=train, **{key: policy})
    assert [c.line for c in chats] == ([1, 2, 3] if policy == "keep" else [1, 3])
    severity = {"error": Severity.ERROR, "drop": Severity.DROPPED, "keep": Severity.WARNING}[policy]
    assert (problem.line, problem.kind, problem.severity) == (2, kind, severity)


def test_a_duplicate_names_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    first = save(tmp_path / "d/a.jsonl", [row("1"), row("2")])
    second = save(tmp_path / "d/b.jsonl", [row("3"), row("2"), row("2")])
    _, chats, problems = run(train=str(tmp_path / "d"))
    assert len(chats) == 5, "the default keeps them"
    assert [p.where for p in problems] == [f"{second}:2", f"{second}:3"]
    assert all(p.message.endswith(f" {first}:2") for p in problems)


def test_flags_make_rows_different_but_do_not_hide_a_leak(tmp_path: Path) -> None:
    flagged, other = row("1"), row("2")
    flagged["messages"][1]["train"] = True
    other["messages"][0]["train"] = False
    train = save(tmp_path / "t.jsonl", [flagged, row("2")])
    evaluation = save(tmp_path / "e.jsonl", [row("1"), row("3"), other])
    for policy, num_eval in (("error", 1), ("drop", 1), ("keep", 3)):
        _, chats, problems = run(train=train, eval=evaluation, leaked=policy)
        assert [(p.line, p.kind, p.split) for p in problems] == [
            (1, Kind.LEAKED, Split.EVAL),
            (3, Kind.LEAKED, Split.EVAL),
        ]
        assert [p.message.rpartition(" ")[2] for p in problems] == [f"{train}:1", f"{train}:2"]
        assert sum(c.split is Split.EVAL for c in chats) == num_eval
    _, _, problems = run(train=save(tmp_path / "u.jsonl", [flagged, row("1")]))
    assert problems == []


def test_a_rejected_training_row_is_not_leaked(tmp_path: Path) -> None:
    train = save(tmp_path / "t.jsonl", [row(""), row("1")])
    evaluation = save(tmp_path / "e.jsonl", [row("")])
    _, _, problems = run(train=train, eval=evaluation, empty_answers="drop")
    assert Kind.LEAKED not in [p.kind for p in problems]


def test_a_fraction_splits_by_content(tmp_path: Path) -> None:
    rows = [row(str(index % 1500)) for index in range(2000)]
    train = save(tmp_path / "t.jsonl", rows)

    def sides(seed: int, data: str = train) -> dict[str, Split]:
        _, chats, _ = run(train=data, eval=0.1, seed=seed)
        assert len(chats) == 2000
        assert [c.line for c in chats] == sorted(c.line for c in chats)
        by_answer: dict[str, Split] = {}
        for chat in chats:
            side = by_answer.setdefault(str(chat.messages[1].content), chat.split)
            assert side is chat.split, "equal rows on one side"
        return by_answer

    one, other = sides(1), sides(2)
    assert one != other
    for split in (one, other):
        assert 100 < Counter(split.values())[Split.EVAL] < 200
    random.Random(0).shuffle(rows)
    assert sides(1, save(tmp_path / "shuffled.jsonl", rows)) == one


def test_a_set_that_ends_up_empty_is_an_error(tmp_path: Path) -> None:
    train = save(tmp_path / "t.jsonl", [row(""), b"{"])
    _, chats, problems = run(train=train, invalid="drop", empty_answers="drop")
    assert chats == []
    assert (problems[-1].kind, problems[-1].severity) == (Kind.FILE, Severity.ERROR)
    assert "no chat is left for train, of 2 rows" in problems[-1].message
    _, _, (problem,) = run(train=save(tmp_path / "u.jsonl", [row()]), eval=1e-9)
    assert "leaves no chat for evaluation" in problem.message and problem.split is Split.EVAL


def test_deep_nesting_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    for depth, kind in ((300, Kind.SHAPE), (2000, Kind.SYNTAX)):
        deep = b'[{"name": "f", "x": ' + b"[" * depth + b"]" * depth + b"}]"
        line = json.dumps(row())[:-1].encode() + b', "tools": ' + deep + b"}"
        _, _, (problem,) = run(train=save(tmp_path / "t.jsonl", [line]))
        assert (problem.line, problem.kind) == (1, kind)


def set_content(value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(one: dict[str, Any]) -> Any:
        one["messages"][1]["content"] = value
        return one

    return change


def rename(old: str, new: str) -> Callable[[dict[str, Any]], Any]:
    def change(one: dict[str, Any]) -> Any:
        one["messages"][0][new] = one["messages"][0].pop(old)
        return one

    return change


def set_role(role: Any, index: int = 1) -> Callable[[dict[str, Any]], Any]:
    def change(one: dict[str, Any]) -> Any:
        one["messages"][index]["role"] = role
        return one

    return change


CORRUPTIONS: list[tuple[Callable[[dict[str, Any]], Any], Kind, str]] = [
    (lambda one: json.dumps(one)[:40].encode(), Kind.SYNTAX, ""),
    (lambda one: json.dumps(one).replace(":", "", 1).encode(), Kind.SYNTAX, ""),
    (lambda one: json.dumps(one).encode() + b"}", Kind.SYNTAX, ""),
    (lambda one: str(one).encode(), Kind.SYNTAX, ""),
    (lambda one: json.dumps({**one, "x": float("nan")}).encode(), Kind.SYNTAX, ""),
    (lambda one: json.dumps(one).encode().replace(b"Hi", b"H\xe9"), Kind.FILE, ""),
    (lambda one: json.dumps(one).encode().replace(b"Hi", b"H\0"), Kind.SYNTAX, ""),
    (lambda one: one["messages"], Kind.SHAPE, ""),
    (lambda one: {"messages": one["messages"][0]}, Kind.SHAPE, "messages"),
    (lambda one: {"message": one["messages"]}, Kind.SHAPE, "message"),
    (lambda one: {"messages": [one["messages"]]}, Kind.SHAPE, "messages[0]"),
    (set_content(None), Kind.SHAPE, "messages[1].content"),
    (set_content(42), Kind.SHAPE, "messages[1].content"),
    (set_content("\ud800"), Kind.SHAPE, "messages[1].content"),
    (set_content(""), Kind.EMPTY_ANSWER, "messages[1]"),
    (set_role("assistent"), Kind.SHAPE, "messages[1].role"),
    (set_role("user"), Kind.ORDER, "messages[1]"),
    (set_role("assistant", 0), Kind.ORDER, "messages[0]"),
    (rename("content", "contents"), Kind.SHAPE, "messages[0].content"),
    (lambda one: {**one, "tools": "[{]"}, Kind.SHAPE, "tools"),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_address_of_twenty_corruptions(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows: list[Any] = [row(f"answer {index}", f"Hi {index}") for index in range(300)]
    places = rng.sample(range(1, 300), len(CORRUPTIONS))
    wanted = {}
    for place, (corrupt, kind, path) in zip(places, CORRUPTIONS, strict=True):
        rows[place] = corrupt(rows[place])
        wanted[place + 1] = (kind, path)
    train = save(tmp_path / "x.jsonl", rows)
    _, chats, problems = run(train=train)
    found: dict[int | None, tuple[Kind, str]] = {}
    for problem in problems:
        assert problem.file == train and problem.severity is Severity.ERROR and problem.hint
        found.setdefault(problem.line, (problem.kind, problem.path))
    assert found == wanted
    assert len(chats) == 300 - len(CORRUPTIONS)
    assert {c.line for c in chats}.isdisjoint(wanted)


def test_a_broken_ten_megabyte_row_has_a_short_message(tmp_path: Path) -> None:
    long = "x " * 5_000_000
    rows: list[Any] = [row(long), json.dumps(row(long)).encode()[:-9], {"messages": long}]
    rows.append({"messages": [{"role": long, "content": {"a": long}}]})
    _, chats, problems = run(train=save(tmp_path / "x.jsonl", rows))
    assert [c.line for c in chats] == [1] and len(str(chats[0].messages[1].content)) == len(long)
    assert {p.line for p in problems} == {2, 3, 4}
    assert max(len(p.message) + len(p.hint) for p in problems) < 300
