"""Rules beyond shape: order of roles, empty answers, equal rows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.data import checks
from lorawright.data.formats import ParsedRow
from lorawright.types import Kind, Message, Role, ToolCall

LETTERS = {
    "s": Message(Role.SYSTEM, "x"),
    "u": Message(Role.USER, "x"),
    "a": Message(Role.ASSISTANT, "x"),
    "c": Message(Role.ASSISTANT, None, (ToolCall("f", {}),)),
    "t": Message(Role.TOOL, "x"),
}


def chat(letters: str) -> ParsedRow:
    messages = tuple(LETTERS[letter] for letter in letters)
    return ParsedRow(messages, None, tuple(f"messages[{i}]" for i in range(len(messages))))


@pytest.mark.parametrize("letters", ["ua", "sua", "uau", "usa", "ucta", "ucttat", "ucu", "uctcta"])
def test_orders_that_chats_have(letters: str) -> None:
    wrong = letters == "ucttat"
    assert [f.path for f in checks.role_order(chat(letters))] == ["messages[5]"] * wrong


@pytest.mark.parametrize(
    ("letters", "places"),
    [
        ("a", [0]),
        ("sau", [1]),
        ("uua", [1]),
        ("usua", [2]),
        ("uaa", [2]),
        ("uca", [2]),
        ("uta", [1]),
        ("ta", [0]),
        ("uat", [2]),
        ("auu", [0, 2]),
        ("uuuaaa", [1, 2, 4, 5]),
    ],
)
def test_orders_that_no_chat_has(letters: str, places: list[int]) -> None:
    findings = checks.role_order(chat(letters))
    assert [f.path for f in findings] == [f"messages[{place}]" for place in places]
    assert all(f.kind is Kind.ORDER and f.hint for f in findings)


def test_short_cut_never_hides_a_finding() -> None:
    for length in range(1, 6):
        for letters in itertools.product(LETTERS, repeat=length):
            one = chat("".join(letters))
            every = checks.role_order(one) + checks.empty_answers(one) + checks.no_assistant(one)
            assert checks.all_findings(one) == every


@pytest.mark.parametrize("content", ["", " ", "\n\t　"])
def test_empty_answers(content: str) -> None:
    for train, num_found in ((None, 1), (True, 1), (False, 0)):
        answer = Message(Role.ASSISTANT, content, train=train)
        one = ParsedRow((LETTERS["u"], answer), None, ("prompt", "completion"))
        findings = checks.all_findings(one)
        assert [(f.path, f.kind) for f in findings] == [
            ("completion", Kind.EMPTY_ANSWER)
        ] * num_found


def test_a_call_or_a_user_without_text_is_no_empty_answer() -> None:
    call = Message(Role.ASSISTANT, "", (ToolCall("f", {}),))
    one = ParsedRow((Message(Role.USER, ""), call), None, ("a", "b"))
    assert checks.all_findings(one) == []


def test_no_assistant() -> None:
    assert [f.kind for f in checks.all_findings(chat("su"))] == [Kind.UNTRAINED]


CHATS = [
    ParsedRow((Message(Role.USER, "a"), Message(Role.ASSISTANT, "b")), None, ("", "")),
    ParsedRow((Message(Role.USER, "ab"), Message(Role.ASSISTANT, "")), None, ("", "")),
    ParsedRow((Message(Role.SYSTEM, "a"), Message(Role.ASSISTANT, "b")), None, ("", "")),
    ParsedRow((Message(Role.USER, "a"), Message(Role.ASSISTANT, "b")), ({"name": "f"},), ("", "")),
    ParsedRow(
        (Message(Role.USER, "a"), Message(Role.ASSISTANT, "b", (ToolCall("f", {}),))), None, ()
    ),
    ParsedRow(
        (Message(Role.USER, "a", extra={"name": "x"}), Message(Role.ASSISTANT, "b")), None, ()
    ),
]


def test_digests_tell_chats_apart() -> None:
    digests = [checks.digests(one)[0] for one in CHATS]
    assert len(set(digests)) == len(CHATS)
    assert all(len(digest) == checks.DIGEST_BYTES for digest in digests)


def test_digests_and_flags_and_key_order() -> None:
    plain = checks.digests(CHATS[0])
    user, assistant = CHATS[0].messages
    flagged = checks.digests(
        ParsedRow((user, Message(Role.ASSISTANT, assistant.content, train=False)), None, ())
    )
    assert plain[0] == plain[1] == flagged[0] != flagged[1]
    tools = ({"name": "f", "x": 1},), ({"x": 1, "name": "f"},)
    first, second = (checks.digests(ParsedRow(CHATS[0].messages, tool, ())) for tool in tools)
    assert first == second


def test_ids_do_not_hide_a_copy() -> None:
    def one(identity: str | None) -> ParsedRow:
        call = Message(Role.ASSISTANT, None, (ToolCall("f", {"x": 1}, identity),))
        extra = {"name": "f", **({"tool_call_id": identity} if identity else {})}
        answer = Message(Role.TOOL, "sun", extra=extra)
        return ParsedRow((Message(Role.USER, "a"), call, answer), None, ("", "", ""))

    assert len({checks.digests(one(identity))[0] for identity in (None, "1", "2")}) == 1


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**130))
def test_lot_is_a_fraction_and_repeats(digest: bytes, seed: int) -> None:
    assert 0 <= checks.split_draw(digest, seed) == checks.split_draw(digest, seed) < 1
