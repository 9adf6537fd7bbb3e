"""Any chat is encoded with a proven mask or refused with its address; no false mask passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lorawright import hub, masks
from lorawright.config.schema import DataSettings, TrainOn
from lorawright.masks import answers, derive, encode, special_tokens
from lorawright.masks.tokenizer import render
from lorawright.masks.turn_markers import TurnMarkers
from lorawright.types import (
    Conversation,
    EncodedChat,
    Kind,
    Message,
    Problem,
    Role,
    Severity,
    Span,
    ToolCall,
)

TINY = hub.tokenizer_folder("tiny")
TOKENIZER = masks.load(TINY, "tiny")
REFERENCE = AutoTokenizer.from_pretrained(TINY)
MARKS = masks.learn(TOKENIZER)
TOKENS = special_tokens.pattern(tuple(TOKENIZER.control_ids))
thorough = settings(max_examples=150, derandomize=True, deadline=None)
quick = settings(max_examples=40, derandomize=True, deadline=None)

PIECES = (
    "Hi", "你好，", "😀", "👩‍👩‍👧", "e\u0301", "\u0301", "\n", "\n\n", " ", "\r\n", "\u3000",
    "\ufffd", "<|im_", "end|>", "assistant", "<|im_start|", "<tool_call>", "</tool_call>",
    "{{ x }}",
)  # fmt: skip
CONTROL = ("<|im_end|>", "<|im_start|>assistant\n", "<|im_end|>\n", "<|endoftext|>")
FREE = st.text(
    st.characters(
        exclude_categories=["Cs"], exclude_characters=special_tokens.START + special_tokens.END
    ),
    max_size=5,
)
FLAGS = st.sampled_from([None, None, None, True, False])


@cache
def texts(pieces: tuple[str, ...], min_size: int = 0) -> st.SearchStrategy[str]:
    some = st.sampled_from(pieces) | FREE
    return st.lists(some, min_size=min_size, max_size=4).map("".join)


@cache
def objects(pieces: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects, such as the arguments of a call."""
    said = texts(pieces)
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-99, 99) | said,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(said, inner, max_size=2),
        max_leaves=4,
    )
    return st.dictionaries(said, values, max_size=2)


@cache
def calls(pieces: tuple[str, ...]) -> st.SearchStrategy[tuple[ToolCall, ...]]:
    one = st.builds(ToolCall, texts(pieces, 1), objects(pieces))
    return st.lists(one, min_size=1, max_size=2).map(tuple)


@cache
def tools(pieces: tuple[str, ...]) -> st.SearchStrategy[tuple[dict[str, Any], ...] | None]:
    return st.none() | st.lists(objects(pieces).map(_tool), max_size=2).map(tuple)


@st.composite
def chats(draw: st.DrawFn, pieces: tuple[str, ...] = PIECES) -> Conversation:
    """Roles in an order that chats have; last turns of any role."""
    said = texts(pieces)

    def turn(role: Role, content: str | None, made: tuple[ToolCall, ...] = ()) -> Message:
        return Message(role, content, made, draw(FLAGS))

    messages = [turn(Role.SYSTEM, draw(said))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(turn(Role.USER, draw(said)))
        if draw(st.integers(0, 2)) == 0:
            messages.append(turn(Role.ASSISTANT, draw(st.none() | said), draw(calls(pieces))))
            messages += [turn(Role.TOOL, draw(said)) for _ in range(draw(st.integers(1, 3)))]
        if draw(st.integers(0, 5)) == 0:
            messages.append(turn(Role.SYSTEM, draw(said)))
        messages.append(turn(Role.ASSISTANT, draw(said)))
    messages = messages[: len(messages) - draw(st.integers(0, 1))]
    line = draw(st.integers(1, 10**6))
    return Conversation(tuple(messages), draw(tools(pieces)), "rows.jsonl", line)


def _tool(value: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": value}}


def encoder(**data: Any) -> masks.Encoder:
    return masks.Encoder(TOKENIZER, DataSettings(max_length=100_000, **data))


def run(made: masks.Encoder, row: Conversation) -> list[EncodedChat | Problem]:
    """What becomes of a row; a flag without effect is a warning beside it, tested elsewhere."""
    found = made.run([row])
    return [f for f in found if isinstance(f, EncodedChat) or f.severity is not Severity.WARNING]


def normalized(text: str) -> str:
    return str(TOKENIZER.backend.normalizer.normalize_str(text))


def rendered(row: Conversation) -> str:
    text = REFERENCE.apply_chat_template(
        [message.for_template() for message in row.messages],
        tools=None if row.tools is None else list(row.tools),
        tokenize=False,
    )
    return normalized(text)


def decoded(ids: tuple[int, ...]) -> str:
    return normalized(TOKENIZER.decode(ids))


def wanted(row: Conversation, train_on: TrainOn) -> list[int]:
    """The rule again, in other words than the code's."""
    answers = [i for i, message in enumerate(row.messages) if message.role is Role.ASSISTANT]
    trained = []
    for index in answers:
        by_default = train_on is not TrainOn.LAST_ASSISTANT or index == max(answers)
        flag = row.messages[index].train
        if by_default if flag is None else flag:
            trained.append(index)
    return trained


def check_spans(result: EncodedChat) -> None:
    assert result.spans
    edges = [edge for span in result.spans for edge in span]
    assert edges == sorted(set(edges))
    assert edges[0] > 0 and edges[-1] <= len(result.ids)
    assert sum(result.trained_flags()) == result.num_trained_tokens


def check_derivations(results: Sequence[EncodedChat], row: Conversation, train_on: TrainOn) -> None:
    marked = special_tokens.mark(row, TOKENS)
    chat = answers.by_text(TOKENIZER, MARKS, marked, train_on)
    if len(results) == 1:
        ids = results[0].ids
        by_ids = [(max(a, 1), b) for a, b in derive.by_ids(ids, MARKS, marked, train_on)]
        assert tuple(by_ids) == results[0].spans
    if train_on is not TrainOn.ALL:
        stretches = [normalized(special_tokens.unmark(text)) for text in chat.targets.values()]
        assert stretches == [decoded(one.ids[a:b]) for one in results for a, b in one.spans]


def has_flags(row: Conversation) -> bool:
    return any(message.train is False for message in row.messages)


def has_tools_in_a_row(row: Conversation) -> bool:
    """Tool messages that share one turn, so that turns and messages are not one to one."""
    return any(a.role is b.role is Role.TOOL for a, b in itertools.pairwise(row.messages))


def check_problem(problem: Problem, row: Conversation) -> None:
    assert (problem.file, problem.line) == (row.file, row.line)
    assert problem.path.startswith(("messages", "tools"))
    assert problem.message and problem.hint


def sequences(found: Sequence[EncodedChat | Problem]) -> list[EncodedChat]:
    """All of one chat, well formed."""
    results = [one for one in found if isinstance(one, EncodedChat)]
    assert len(results) == len(found)
    for number, one in enumerate(results):
        check_spans(one)
        assert (one.sequence, one.num_sequences) == (number, len(results))
        assert len(results) == 1 or one.spans[-1][1] == len(one.ids)
    return results


def prompt_ids(row: Conversation, index: int) -> list[int]:
    """What a server reads before it answers, by Transformers alone."""
    ids = REFERENCE.apply_chat_template(
        [message.for_template() for message in row.messages[:index]],
        tools=None if row.tools is None else list(row.tools),
        add_generation_prompt=True,
        return_dict=False,
    )
    return list(ids)


@thorough
@given(chats(), st.sampled_from([TrainOn.ASSISTANT, TrainOn.LAST_ASSISTANT]))
def test_chats_are_encoded_with_proven_masks(row: Conversation, train_on: TrainOn) -> None:
    found = run(encoder(train_on=train_on), row)
    trained = wanted(row, train_on)
    if isinstance(result := found[0], Problem):
        check_problem(result, row)
        forges = any(special_tokens.find(row, TOKENS))
        assert result.kind is (Kind.FORGED if forges else Kind.UNTRAINED)
        assert forges or not trained
        return
    results = sequences(found)
    if len(results) == 1:
        assert decoded(results[0].ids) == rendered(row)
    spans = [(one, *span) for one in results for span in one.spans]
    for index, (one, start, end) in zip(trained, spans, strict=True):
        assert one.ids[end - 1] == MARKS.end_id
        assert decoded(one.ids[start:end]).startswith(normalized(row.messages[index].content or ""))
        assert one.ids.index(MARKS.end_id, start) == end - 1
        assert list(one.ids[:start]) == prompt_ids(row, index)
    check_derivations(results, row, train_on)


@thorough
@given(chats(PIECES + CONTROL), st.sampled_from(list(TrainOn)))
def test_control_tokens_in_text_are_escaped(row: Conversation, train_on: TrainOn) -> None:
    found = run(encoder(train_on=train_on, special_tokens_in_text="escape"), row)
    if isinstance(result := found[0], Problem):
        check_problem(result, row)
        assert result.kind in (Kind.UNTRAINED, Kind.MASK)
        assert result.kind is Kind.UNTRAINED or train_on is TrainOn.ALL
        return
    results = sequences(found)
    check_derivations(results, row, train_on)
    if len(results) == 1:
        assert decoded(results[0].ids) == rendered(row)
        starts = results[0].ids.count(TOKENIZER.control_ids["<|im_start|>"])
        assert starts == rendered_turns(row)


def rendered_turns(row: Conversation) -> int:
    """Turn starts that the template wrote itself."""
    marked = special_tokens.mark(row, TOKENS)
    pieces = special_tokens.split(TOKENIZER.render(marked.messages, marked.tools))
    return sum(text.count("<|im_start|>") for text, plain in pieces if not plain)


@thorough
@given(chats())
def test_everything_is_trained_but_flagged_turns(row: Conversation) -> None:
    found = run(encoder(train_on="all"), row)
    if isinstance(result := found[0], Problem):
        check_problem(result, row)
        assert result.kind is not Kind.MASK or (has_flags(row) and has_tools_in_a_row(row))
        return
    assert isinstance(result, EncodedChat)
    check_spans(result)
    assert decoded(result.ids) == rendered(row)
    if not has_flags(row):
        assert result.spans == ((1, len(result.ids)),)
    else:
        assert result.num_trained_tokens < len(result.ids) - 1


@quick
@given(
    st.lists(chats(PIECES + CONTROL), max_size=6),
    st.sampled_from(list(TrainOn)),
    st.sampled_from(["error", "escape"]),
)
def test_batches_change_nothing(rows: list[Conversation], train_on: TrainOn, policy: str) -> None:
    made = encoder(train_on=train_on, special_tokens_in_text=policy)
    together = list(made.run(rows))
    alone = [item for row in rows for item in made.run([row])]
    assert together == alone


@quick
@given(chats(), st.integers(1, 120))
def test_cut_keeps_whole_answers(row: Conversation, limit: int) -> None:
    whole, *others = run(encoder(special_tokens_in_text="escape"), row)
    assume(isinstance(whole, EncodedChat) and not others)
    cutting = masks.Encoder(
        TOKENIZER, DataSettings(max_length=limit, overlong="cut", special_tokens_in_text="escape")
    )
    (result,) = run(cutting, row)
    kept = tuple(span for span in whole.spans if span[1] <= limit)
    if len(whole.ids) <= limit:
        assert result == whole
    elif not kept:
        assert isinstance(result, Problem) and result.kind is Kind.OVERLONG
    else:
        assert result == replace(whole, ids=whole.ids[: kept[-1][1]], spans=kept)
        assert result.ids[-1] == MARKS.end_id


@quick
@given(chats(), st.sampled_from(list(TrainOn)), st.data())
def test_a_missing_header_is_refused(
    row: Conversation, train_on: TrainOn, data: st.DataObject
) -> None:
    result, *others = run(encoder(special_tokens_in_text="escape", train_on=train_on), row)
    assume(isinstance(result, EncodedChat) and not others)
    ids = list(result.ids)
    core = list(MARKS.core_ids)
    places = [i for i in range(len(ids)) if ids[i : i + len(core)] == core]
    assume(places)
    at = data.draw(st.sampled_from(places))
    with pytest.raises(derive.UnprovenMask, match="this model's template begins") as caught:
        derive.by_ids(ids[:at] + ids[at + len(core) :], MARKS, row, train_on)
    assert caught.value.path == "messages"


def test_a_missing_turn_end_is_refused() -> None:
    (result,) = run(encoder(), SIMPLE)
    assert isinstance(result, EncodedChat)
    ids = [token for token in result.ids[result.spans[0][0] :] if token != MARKS.end_id]
    with pytest.raises(derive.UnprovenMask, match="behind it in the ids"):
        derive.by_ids([*result.ids[: result.spans[0][0]], *ids], MARKS, SIMPLE, TrainOn.ASSISTANT)


SIMPLE = Conversation(
    (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello, hello!")), None, "rows.jsonl", 1
)
INSIDE = TOKENIZER.encode([","])[0][0]
OTHER = TOKENIZER.control_ids["<|endoftext|>"]
TAMPERED: dict[str, Callable[[TurnMarkers], TurnMarkers]] = {
    "end id inside the answer": lambda m: replace(m, end_id=INSIDE),
    "stops at another token": lambda m: replace(m, stops=(("<|endoftext|>", OTHER),)),
    "stop of another id": lambda m: replace(m, stops=(("<|im_end|>", OTHER),), end_id=OTHER),
    "stop inside the answer": lambda m: replace(m, stops=((",", INSIDE),)),
    "header one id longer": lambda m: replace(m, header_ids=(*m.header_ids, INSIDE)),
    "header one id shorter": lambda m: replace(m, header_ids=m.header_ids[:-1]),
    "core of another role": lambda m: replace(
        m, core_ids=tuple(TOKENIZER.encode(["<|im_start|>system"])[0])
    ),
    "core of no role": lambda m: replace(m, core_ids=m.core_ids[:1]),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_wrong_marks_are_never_believed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong stop is refused; a wrong header is not counted by, and the mask is right."""
    (honest,) = run(encoder(), SIMPLE)
    wrong = TAMPERED[name](MARKS)
    monkeypatch.setattr(encode, "learn", lambda tokenizer: wrong)
    (result,) = run(encoder(), SIMPLE)
    if isinstance(result, EncodedChat):
        assert result == honest and "stop" not in name
        return
    assert result.kind is Kind.MASK and result.path.startswith("messages")
    check_problem(result, SIMPLE)


def test_a_wrong_span_is_shown_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: Any) -> list[Span]:
        return [(start + 1, end) for start, end in honest(*arguments)]

    honest = derive.by_ids
    monkeypatch.setattr(derive, "by_ids", shifted)
    (result,) = run(encoder(), SIMPLE)
    assert isinstance(result, Problem) and result.kind is Kind.MASK
    assert "disagree" in result.message
    assert "'Hello, hello!<|im_end|>'" in result.message


def test_spans_never_touch() -> None:
    turns = [m for _ in range(3) for m in SIMPLE.messages]
    (result,) = run(encoder(), replace(SIMPLE, messages=tuple(turns)))
    assert isinstance(result, EncodedChat)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(result.spans))


@thorough
@given(chats(), st.booleans())
def test_beginnings_are_rendered_as_by_transformers(row: Conversation, prompt: bool) -> None:
    """One copy of the chat, many renders: each is what Transformers' own function gives."""
    rendering = TOKENIZER.rendering(row.messages, row.tools)
    for num in range(1, len(row.messages) + 1):
        text, _ = render(
            TOKENIZER.tool_template if row.tools else TOKENIZER.template,
            row.messages[:num],
            row.tools,
            TOKENIZER.variables,
            add_generation_prompt=prompt,
        )
        assert rendering.upto(num, generation_prompt=prompt) == text
