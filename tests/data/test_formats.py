"""A row in any of the four formats becomes the same chat; a row that is wrong says all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.config.schema import Format
from lorawright.data.formats import ParsedRow, detect, parse_row, unknown_format
from lorawright.data.problems import Finding, clip, got, nearest
from lorawright.types import Message, Role, ToolCall

U, A, S, T = Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.TOOL
CALL = {"name": "weather", "arguments": {"city": "Paris"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"x": None}}}


def chat(row: Any) -> ParsedRow:
    format = detect(row)
    assert format is not None
    parsed = parse_row(row, format, "here")
    assert isinstance(parsed, ParsedRow), parsed
    assert len(parsed.paths) == len(parsed.messages)
    return parsed


def faults(row: Any, format: Format | None = None) -> dict[str, str]:
    parsed = parse_row(row, format or detect(row) or Format.MESSAGES, "by its row at x.jsonl:1")
    assert isinstance(parsed, list), parsed
    for finding in parsed:
        assert finding.hint and finding.message
        assert (finding.message + finding.hint).isprintable()
        assert len(finding.message) < 300
    assert len({(f.path, f.message) for f in parsed}) == len(parsed)
    return {f.path: f"{f.message} / {f.hint}" for f in parsed}


def turns(row: Any) -> list[tuple[Role, str | None]]:
    return [(m.role, m.content) for m in chat(row).messages]


def messages(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in pairs], **more}


WANTED = [(S, "Be kind."), (U, "Hi"), (A, "Hello"), (U, "More"), (A, "Gladly")]
FOUR_FORMATS = {
    Format.MESSAGES: messages(
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "More"),
        ("assistant", "Gladly"),
    ),
    Format.SHAREGPT: {
        "system": "Be kind.",
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "user", "value": "More"},
            {"from": "model", "value": "Gladly"},
        ],
    },
    Format.ALPACA: {
        "system": "Be kind.",
        "history": [["Hi", "Hello"]],
        "instruction": "More",
        "input": "",
        "output": "Gladly",
    },
    Format.PROMPT_COMPLETION: {
        "prompt": messages(
            ("developer", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "More")
        )["messages"],
        "completion": messages(("assistant", "Gladly"))["messages"],
    },
}


@pytest.mark.parametrize("format", FOUR_FORMATS)
def test_four_formats_say_the_same(format: Format) -> None:
    row = FOUR_FORMATS[format]
    assert detect(row) is format
    assert turns(row) == WANTED


@pytest.mark.parametrize("format", FOUR_FORMATS)
def test_null_and_metadata_columns_do_not_matter(format: Format) -> None:
    others = {key: None for row in FOUR_FORMATS.values() for key in row}
    row = {**others, "tools": None, "id": 7, "source": "web", **FOUR_FORMATS[format]}
    assert detect(row) is format
    assert turns(row) == WANTED


def test_paths_lead_to_the_messages() -> None:
    assert chat(FOUR_FORMATS[Format.SHAREGPT]).paths[:2] == ("system", "conversations[0]")
    assert chat(FOUR_FORMATS[Format.ALPACA]).paths == (
        "system",
        "history[0][0]",
        "history[0][1]",
        "instruction",
        "output",
    )
    assert chat(FOUR_FORMATS[Format.PROMPT_COMPLETION]).paths[-2:] == ("prompt[3]", "completion[0]")


def test_alpaca_joins_instruction_and_input() -> None:
    assert turns({"instruction": "Sum", "input": "1 2", "output": "3"})[0] == (U, "Sum\n1 2")
    assert turns({"instruction": "", "input": "1 2", "output": "3"})[0] == (U, "1 2")
    assert turns({"instruction": "Sum", "output": "3"})[0] == (U, "Sum")


def test_prompt_is_not_trained_unless_it_says_so() -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "train": True},
            {"role": "user", "content": "More"},
        ],
        "completion": [
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c", "train": False},
        ],
    }
    assert [m.train for m in chat(row).messages] == [False, True, False, None, None, False]
    texts = chat({"prompt": "Hi", "completion": "Hello"})
    assert texts.messages == (Message(U, "Hi", train=False), Message(A, "Hello"))
    assert texts.paths == ("prompt", "completion")


@pytest.mark.parametrize(
    "wrapped",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": [{"id": "1", "type": "function", "function": CALL}]},
        {"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}]},
        {"function_call": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"function_call": CALL, "tool_calls": None},
        {"function_call": CALL, "tool_calls": []},
    ],
)
@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_calls_are_objects_however_they_are_written(wrapped: Any, content: Any) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", **content, **wrapped},
            {"role": "function", "name": "weather", "content": "sun"},
        ]
    }
    _, call, answer = chat(row).messages
    identity = "1" if "id" in (wrapped.get("tool_calls") or [{}])[0] else None
    assert call == Message(A, None, (ToolCall("weather", {"city": "Paris"}, identity),))
    assert answer == Message(T, "sun", extra={"name": "weather"})


def test_empty_tool_calls_are_none() -> None:
    row = {"messages": [{"role": "assistant", "content": "x", "tool_calls": [], "name": None}]}
    assert chat(row).messages == (Message(A, "x"),)


@pytest.mark.parametrize("calls", [[CALL], [CALL, CALL]])
@pytest.mark.parametrize("is_text", [True, False])
def test_sharegpt_function_calls(calls: list[Any], is_text: bool) -> None:
    value = calls if len(calls) > 1 else calls[0]
    row = {
        "conversations": [
            {"from": "human", "value": "?"},
            {"from": "function_call", "value": json.dumps(value) if is_text else value},
            {"from": "observation", "value": "sun"},
            {"from": "gpt", "value": "Let me look again."},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "tool", "value": "rain"},
            {"from": "gpt", "value": "Rain."},
        ],
        "tools": json.dumps([CALL]),
    }
    parsed = chat(row)
    call = ToolCall("weather", {"city": "Paris"})
    assert parsed.messages[1] == Message(A, None, (call,) * len(calls))
    assert parsed.messages[3] == Message(A, "Let me look again.", (call,)), (
        "text and call: one turn"
    )
    assert [m.role for m in parsed.messages] == [U, A, T, A, T, A]
    assert parsed.paths[4] == "conversations[5]"
    assert parsed.tools == (CALL,)


def test_role_content_under_conversations_and_from_value_under_messages() -> None:
    role_content = {"conversations": messages(("human", "Hi"), ("assistant", "Hello"))["messages"]}
    from_value = {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    for row in (role_content, from_value):
        assert detect(row) is Format.SHAREGPT
        assert turns(row) == [(U, "Hi"), (A, "Hello")]


@pytest.mark.parametrize("key", ["tools", "tool"])
@pytest.mark.parametrize("tools", [[TOOL], [CALL, TOOL]])
def test_tools_stay_exactly_as_given(key: str, tools: list[Any]) -> None:
    row = messages(("user", "?"), ("assistant", "!"))
    for value in (tools, json.dumps(tools)):
        assert chat({**row, key: value}).tools == tuple(tools)
    inside = {"role": "system", "content": "", "tools": tools}
    parsed = chat({"messages": [inside, *row["messages"]]})
    assert parsed.tools == tuple(tools)
    assert parsed.messages[0] == Message(S, "")
    for nothing in (None, "", [], "[]", "null"):
        assert chat({**row, key: nothing}).tools is None


@pytest.mark.parametrize(
    ("identity", "kept"), [("call_1", "call_1"), (7, "7"), ("", None), (None, None)]
)
def test_ids_of_calls_are_handed_to_the_template(identity: Any, kept: str | None) -> None:
    calls = [{"id": identity, "type": "function", "function": CALL}]
    row = messages(("user", "?"), ("assistant", None))
    row["messages"][1]["tool_calls"] = calls
    (rendered,) = chat(row).messages[1].for_template()["tool_calls"]
    assert rendered.get("id") == kept and ("id" in rendered) == (kept is not None)
    assert rendered["function"] == CALL and rendered["type"] == "function"
    calls[0]["id"] = [identity]
    assert "is a list, expected text" in faults(row)["messages[1].tool_calls[0].id"]


def test_legacy_functions_are_tools() -> None:
    row = messages(("user", "?"), ("assistant", "!"), functions=[CALL, TOOL])
    for value in (row["functions"], json.dumps(row["functions"])):
        found = chat({**row, "functions": value, "tools": []}).tools
        assert found == ({"type": "function", "function": CALL}, TOOL)
    assert chat({**row, "functions": None}).tools is None
    beside = faults({**row, "tools": [TOOL]})
    assert beside["functions"].startswith("tools stand in `tools` too")


def test_parts_in_every_spelling() -> None:
    call = {"type": "tool_call", "value": json.dumps(CALL)}
    parts = [
        {"type": "reasoning", "value": "Why "},
        {"type": "reasoning", "text": "not?"},
        {"type": "text", "value": "Let me"},
        {"type": "text", "text": " look."},
        call,
    ]
    weather = ToolCall("weather", {"city": "Paris"})
    (answer,) = chat(messages(("assistant", parts))).messages
    assert answer == Message(A, "Let me look.", (weather,), extra={"reasoning_content": "Why not?"})
    for only in (call, {"type": "tool_call", "tool_call": {"function": CALL}}):
        assert chat(messages(("assistant", [only]))).messages == (Message(A, None, (weather,)),)


@pytest.mark.parametrize(
    ("role", "part", "path", "words"),
    [
        ("user", {"type": "reasoning", "text": "x"}, "[0].type", "in a user message"),
        ("user", {"type": "tool_call", "value": "{}"}, "[0].type", "in a user message"),
        ("assistant", {"type": "tool_call", "value": "f()"}, "[0].value", "is not JSON"),
        ("assistant", {"type": "tool_call"}, "[0].value", "is null, expected a call"),
        ("user", {"type": "text", "body": "x"}, "[0].text", "is missing, the part has `type`"),
        ("user", {"type": "text", "value": 3}, "[0].value", "is a number (3), expected text"),
        ("user", {"type": "text", "text": None}, "[0].text", "is null, expected text"),
    ],
)
def test_a_faulty_part_has_path_and_words(role: str, part: Any, path: str, words: str) -> None:
    found = faults(messages((role, [part])))
    assert list(found) == [f"messages[0].content{path}"]
    assert words in found[f"messages[0].content{path}"]


def test_reasoning_stands_in_one_place() -> None:
    row = messages(("assistant", [{"type": "reasoning", "text": "x"}]))
    row["messages"][0]["reasoning_content"] = "y"
    assert "holds reasoning, and so does" in faults(row)["messages[0].content"]


def test_unknown_keys_inside_messages_are_noted() -> None:
    row = messages(("user", "Hi"), ("assistant", "Hello"))
    row["messages"][0] |= {"mood": "good", "name": "Ann", "id": 3, "empty": None}
    row["messages"][1] |= {"reasoning_content": "x", "tool_calls": [{**CALL, "index": 0, "at": 1}]}
    parsed = chat(row)
    assert parsed.unknown == [
        ("messages[0].mood", "mood"),
        ("messages[1].tool_calls[0].at", "at"),
    ]
    assert parsed.messages[0].extra["mood"] == "good"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns(messages(("user", parts))) == [(U, "ab")]
    image = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}, "b"]
    found = faults(messages(("user", image)))
    assert found["messages[0].content[1].type"].startswith("is `image_url`, expected `text`")
    assert found["messages[0].content[2]"].startswith("is text (`b`)")


@pytest.mark.parametrize(
    ("keys", "train"),
    [
        ({}, None),
        ({"train": None}, None),
        ({"train": True}, True),
        ({"weight": 0}, False),
        ({"weight": 1.0}, True),
        ({"weight": 1, "train": True}, True),
        ({"loss": False}, False),
        ({"loss": True, "train": None}, True),
        ({"loss_weight": 0.0}, False),
        ({"loss_weight": 1, "weight": 1, "loss": True, "train": True}, True),
    ],
)
def test_train_and_weight(keys: Any, train: bool | None) -> None:
    parsed = chat({"messages": [{"role": "assistant", "content": "x", "id": "m", **keys}]})
    assert parsed.messages == (Message(A, "x", train=train, extra={"id": "m"}),)


def test_extra_keys_go_to_the_template_untouched() -> None:
    row = {
        "messages": [
            {"role": "assistant", "content": "x", "reasoning_content": "why", "name": None},
            {"role": "tool", "content": "x", "tool_call_id": "7"},
        ]
    }
    extras = [dict(m.extra) for m in chat(row).messages]
    assert extras == [{"reasoning_content": "why"}, {"tool_call_id": "7"}]


M1 = "messages[1]"
A_ROW_WITH = {
    "null content": ({"content": None}, f"{M1}.content", "is null, expected text"),
    "number": ({"content": 3}, f"{M1}.content", "is a number (3), expected text"),
    "boolean": ({"content": True}, f"{M1}.content", "is true, expected text"),
    "object": ({"content": {"a": 1}}, f"{M1}.content", "is an object, expected text"),
    "slip in role": (
        {"role": "assistent"},
        f"{M1}.role",
        "is `assistent`, expected one of: system, user, assistant, tool"
        " / did you mean `assistant`?",
    ),
    "case": ({"role": "Assistant"}, f"{M1}.role", "did you mean `assistant`?"),
    "null role": ({"role": None}, f"{M1}.role", "is null, expected one of: system"),
    "list role": ({"role": ["user"]}, f"{M1}.role", "is a list, expected one of: system"),
    "train": ({"train": "no"}, f"{M1}.train", "is text (`no`), expected true or false"),
    "weight": ({"weight": 0.5}, f"{M1}.weight", "is a number (0.5), expected 0 or 1"),
    "loss": ({"loss": 1}, f"{M1}.loss", "is a number (1), expected true or false"),
    "loss weight": ({"loss_weight": 0.5}, f"{M1}.loss_weight", "(0.5), expected 0 or 1"),
    "true weight": ({"loss_weight": True}, f"{M1}.loss_weight", "is true, expected 0 or 1"),
    "not loss": (
        {"train": True, "loss": False},
        f"{M1}.loss",
        "says the opposite of `train`",
    ),
    "loss slip": ({"loss_weights": 0}, f"{M1}.loss_weights", "did you mean `loss_weight`?"),
    "both": ({"weight": 0, "train": True}, f"{M1}.weight", "the opposite"),
    "slip": ({"tool_call": [CALL]}, f"{M1}.tool_call", "did you mean `tool_calls`?"),
    "calls": ({"tool_calls": "f()"}, f"{M1}.tool_calls", "is text (`f()`), expected a list"),
    "call": ({"tool_calls": [7]}, f"{M1}.tool_calls[0]", "is a number (7), expected an object"),
    "function": (
        {"tool_calls": [{"function": None}]},
        f"{M1}.tool_calls[0].function",
        "is null, expected an object",
    ),
    "name": (
        {"tool_calls": [{"function": {"arguments": {}}}]},
        f"{M1}.tool_calls[0].function.name",
        "is missing",
    ),
    "arguments": (
        {"tool_calls": [{"name": "f", "argument": {}}]},
        f"{M1}.tool_calls[0].arguments",
        "is missing, found `argument` / did you mean `arguments`?",
    ),
    "arguments text": (
        {"tool_calls": [{"name": "f", "arguments": "{'a': 1}"}]},
        f"{M1}.tool_calls[0].arguments",
        "is text that is not JSON",
    ),
    "arguments list": (
        {"function_call": {"name": "f", "arguments": "[1]"}},
        f"{M1}.function_call.arguments",
        "as JSON is a list, expected an object",
    ),
    "user calls": (
        {"role": "user", "tool_calls": [CALL]},
        f"{M1}.tool_calls",
        "stands in a user message",
    ),
}


@pytest.mark.parametrize("case", A_ROW_WITH)
def test_a_fault_has_path_and_words(case: str) -> None:
    change, path, words = A_ROW_WITH[case]
    row = messages(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))
    row["messages"][1] |= change
    found = faults(row)
    assert list(found) == [path]
    assert words in found[path]


@pytest.mark.parametrize(
    ("row", "path", "words"),
    [
        ({"messages": None}, "messages", "is null, expected a list of messages"),
        ({"messages": []}, "messages", "is an empty list"),
        ({"messages": "Hi"}, "messages", "is text (`Hi`)"),
        ({"messages": ["Hi"]}, "messages[0]", "is text (`Hi`), expected an object"),
        ({"messages": [[]]}, "messages[0]", "is an empty list, expected an object"),
        ({"messages": [{"rol": "user", "content": "x"}]}, "messages[0].role", "`role`?"),
        ({"messages": [{"role": "user", "contnet": "x"}]}, "messages[0].content", "`content`?"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "the message has `role`"),
        (messages(("user", "x"), tools=3), "tools", "is a number (3), expected a list"),
        (messages(("user", "x"), tools="[{"), "tools", "is text that is not JSON"),
        (messages(("user", "x"), tools=[{}]), "tools[0].name", "is missing"),
        (messages(("user", "x"), tools=["f"]), "tools[0]", "is text (`f`), expected an object"),
        (messages(("user", "x"), tools=[CALL], tool=[CALL]), "tool", "tools stand in `tools` too"),
        (messages(("user", "x"), tolls=[CALL]), "tolls", "did you mean `tools`?"),
        (messages(("user", "x"), system=3), "system", "is a number (3), expected text"),
        (messages(("system", "x"), system="y"), "system", "stands beside a system message"),
        ({"conversations": [{"from": "humn", "value": "x"}]}, "conversations[0].from", "`human`?"),
        (
            {"conversations": [{"from": "function_call", "value": "f()"}]},
            "conversations[0].value",
            "is text that is not JSON",
        ),
        (
            {"conversations": [{"from": "gpt", "value": "x", "role": "user"}]},
            "conversations[0].role",
            "stands beside `from`",
        ),
        ({"instruction": "x", "output": None}, "output", "is null, expected text"),
        ({"instruction": "x", "outptu": "y"}, "outptu", "did you mean `output`?"),
        ({"instruction": 1, "output": "y"}, "instruction", "is a number (1), expected text"),
        ({"instruction": "x", "input": [], "output": "y"}, "input", "is an empty list, expected"),
        ({"instruction": "x", "output": "y", "history": [["q"]]}, "history[0]", "has 1 texts"),
        (
            {"instruction": "x", "output": "y", "history": [["q", None]]},
            "history[0][1]",
            "is null, expected text",
        ),
        ({"prompt": "x", "chosen": "y"}, "completion", "the row has `prompt`, `chosen`"),
        ({"prompt": 1, "completion": "y"}, "prompt", "expected text or a list of messages"),
        (
            {"prompt": "x", "completion": [{"role": "assistant"}]},
            "completion[0].content",
            "missing",
        ),
    ],
)
def test_a_faulty_row_has_path_and_words(row: Any, path: str, words: str) -> None:
    found = faults(row)
    assert list(found) == [path]
    assert words in found[path]


def test_all_faults_of_a_row_are_found() -> None:
    row = messages(("usr", "x"), ("assistant", None), ("user", 3), tools=[{}])
    row["messages"][2]["train"] = 1
    assert list(faults(row)) == [
        "messages[0].role",
        "messages[1].content",
        "messages[2].content",
        "messages[2].train",
        "tools[0].name",
    ]


@pytest.mark.parametrize("row", [[], [[1, 2], [3]], None, 3, "text", True])
def test_what_is_no_object_is_no_row(row: Any) -> None:
    assert "expected an object" in faults(row, Format.MESSAGES)[""]
    assert "expected an object" in unknown_format(row)[0].message


@pytest.mark.parametrize("format", FOUR_FORMATS)
def test_a_row_in_another_format_says_which_and_why(format: Format) -> None:
    for other, row in FOUR_FORMATS.items():
        # sharegpt reads `messages` too, with roles under either key
        if other is not format and (format, other) != (Format.SHAREGPT, Format.MESSAGES):
            (path, words), *more = faults(row, format).items()
            assert (path, more) == ("", [])
            assert f"looks like {other}" in words
            assert f"is {format} (by its row at x.jsonl:1)" in words


def test_no_format() -> None:
    (slip,) = unknown_format({"mesages": []})
    assert (slip.path, slip.hint) == ("mesages", "did you mean `messages`?")
    (none,) = unknown_format({"text": "x", "label": 1})
    assert "`text`, `label`" in none.message and "messages; conversations" in none.hint
    assert detect({"text": "x"}) is None


def test_messages_never_hold_a_whole_row() -> None:
    huge = "x\n" * 1_000_000
    for row in (
        messages(("user", {"a": huge})),
        messages((huge, "x")),
        messages(("user", "x"), tools=huge),
        {"messages": huge},
        {"messages": [{huge: 1}]},
        {"instruction": "x", huge: 1},
    ):
        assert faults(row)
    assert len(unknown_format({huge: 1})[0].message) < 200


ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", "x", "", None, 3])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just([CALL]))
MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "from", "value", "tool_calls", "train", "tools", "x", ""]),
    ROLES | VALUES,
)
KNOWN_KEYS = sorted({key for row in FOUR_FORMATS.values() for key in row} | {"tools", "tool"})
ROWS = st.dictionaries(
    st.sampled_from([*KNOWN_KEYS, "sytem", "id", ""]),
    VALUES | MESSAGES | st.lists(MESSAGES | VALUES, max_size=4),
)


@settings(deadline=None, max_examples=100)
@given(ROWS, st.sampled_from(list(FOUR_FORMATS)))
def test_any_row_is_a_chat_or_has_findings(row: Any, format: Format) -> None:
    parsed = parse_row(row, format, "here")
    if isinstance(parsed, ParsedRow):
        assert len(parsed.paths) == len(parsed.messages) > 0
        for message in parsed.messages:
            rendered = message.for_template()
            assert rendered["role"] == message.role
            assert message.content is not None or message.tool_calls
    else:
        assert parsed and all(isinstance(finding, Finding) for finding in parsed)
    if detect(row) is None:
        assert unknown_format(row)


def test_words_for_values() -> None:
    assert clip("a\nb\x1b[31m" + "x" * 100).isprintable()
    assert len(clip("é" * 100)) == 60
    assert got(None) == "is null" and got(1.5) == "is a number (1.5)" and got("") == "is empty text"
    assert nearest("story", ("history",)) is None, "another word, not a slip"
