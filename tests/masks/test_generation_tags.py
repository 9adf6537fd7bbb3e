"""Templates with generation tags as a third witness, and templates whose masks cannot be proven."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import pytest

from lorawright import data, hub, masks
from lorawright.cli import run
from lorawright.config.schema import DataSettings, TemplateSettings
from lorawright.errors import TemplateError
from lorawright.types import (
    Conversation,
    EncodedChat,
    Kind,
    Message,
    Problem,
    Role,
    Severity,
    ToolCall,
)

TINY = hub.tokenizer_folder("tiny")
TOKENIZER = masks.load(TINY, "tiny")
TAGS = (Path(__file__).parents[1] / "templates" / "tiny_generation.jinja").read_text(
    encoding="utf-8"
)
PLAIN = "{%- generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}\n        {{- '\\n' }}"
OPENED = "{{- open(m.role) + '\\n' }}\n        " + PLAIN
AROUND_NEWLINES = (
    "{{- open(m.role) }}\n        "
    "{%- generation %}{{ '\\n' + m.content + '<|im_end|>\\n' }}{% endgeneration %}"
)
STRAY_SPACES = """{%- generation %}
    {{ m.content -}}
    {{ '    <|im_end|>' }}{% endgeneration %}
        {{- '\\n' }}"""


def demo() -> list[Conversation]:
    folder = files("lorawright") / "assets" / "demo"
    names = [str(folder / f"{name}.jsonl") for name in ("train", "eval")]
    items = list(data.Reader(DataSettings(train=names[0], eval=names[1])))
    return [item for item in items if isinstance(item, Conversation)]


def variant(old: str, new: str, source: str = TAGS) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


def witnessed(
    template: str, rows: list[Conversation], **settings: Any
) -> tuple[list[EncodedChat], list[Problem], masks.MaskCounts]:
    encoder = masks.Encoder(TOKENIZER, DataSettings(**settings), (template, "tags.jinja"))
    items = list(encoder.run(rows))
    chats = [item for item in items if isinstance(item, EncodedChat)]
    return chats, [item for item in items if isinstance(item, Problem)], encoder.counts


def rejected(template: str, rows: list[Conversation] | None = None) -> str:
    """What the one problem of a wrong template says; all rows are encoded none the less."""
    rows = demo() if rows is None else rows
    chats, problems, counts = witnessed(template, rows)
    assert len(chats) == len(rows)
    (problem,) = problems
    assert (problem.kind, problem.file, problem.line) == (Kind.TEMPLATE, "tags.jinja", None)
    assert problem.path == "template.generation_tags" and problem.hint
    assert counts.tags_problem is not None and counts.tags_problem in problem.message
    return problem.message


def asked(*turns: Message) -> Conversation:
    return Conversation((Message(Role.USER, "Hi"), *turns), None, "rows.jsonl", 3)


HELLO = asked(Message(Role.ASSISTANT, "Hello!"))


@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "all"])
def test_correct_tags_agree_on_every_demo_row(train_on: str) -> None:
    rows = demo()
    chats, problems, counts = witnessed(TAGS, rows, train_on=train_on)
    assert len(chats) == len(rows) > 300 and not problems
    assert counts.num_agreed_tags == counts.num_agreed_text_ids == len(rows)
    assert counts.tags_problem is None


@pytest.mark.parametrize("content", ["\nHello!\n", " ", "", "你好😀", "say <|im_end|> twice"])
def test_correct_tags_agree_on_odd_answers(content: str) -> None:
    calls = (ToolCall("f", {"x": content}), ToolCall("f", {}))
    answers = [
        Message(Role.ASSISTANT, content, calls),
        Message(Role.TOOL, content),
        Message(Role.ASSISTANT, None, calls),
        Message(Role.TOOL, content),
        Message(Role.TOOL, content),
        Message(Role.ASSISTANT, content),
    ]
    row = asked(*answers)
    chats, problems, counts = witnessed(TAGS, [row], special_tokens_in_text="escape")
    # the newline is one token with the header's once the answer is history
    assert len(chats) == (2 if content.startswith("\n") else 1) and counts.num_agreed_tags == 1
    assert all(problem.severity is Severity.WARNING for problem in problems)


def test_tags_change_no_mask() -> None:
    alone = list(masks.Encoder(TOKENIZER, DataSettings()).run(demo()))
    assert witnessed(TAGS, demo())[0] == alone


def test_tags_around_newlines_are_reported_with_what_they_mark() -> None:
    message = rejected(variant(OPENED, AROUND_NEWLINES), [HELLO])
    assert r"marks '\nHello!<|im_end|>\n' as trained" in message
    assert "expected 'Hello!<|im_end|>'" in message
    assert "rows.jsonl:3" in message


def test_tags_around_newlines_are_reported_once() -> None:
    assert "train.jsonl:1)" in rejected(variant(OPENED, AROUND_NEWLINES))


def test_tags_without_the_end_token_are_reported() -> None:
    bare = "{%- generation %}{{ m.content }}{% endgeneration %}\n        {{- '<|im_end|>\\n' }}"
    message = rejected(variant(PLAIN, bare), [HELLO])
    assert "marks 'Hello!' as trained, expected 'Hello!<|im_end|>'" in message


def test_stray_spaces_are_reported_once_with_their_place() -> None:
    message = rejected(variant(PLAIN, STRAY_SPACES))
    assert "renders other text than the model's own template" in message
    expected = TOKENIZER.render(demo()[0].messages, demo()[0].tools)
    at = expected.index("assistant\n") + len("assistant\n")
    assert f"at character {at}, after " in message
    assert repr(expected[at - 24 : at]) in message
    assert f"expected {expected[at : at + 24]!r}" in message
    assert f"got {'    ' + expected[at : at + 20]!r}" in message


def test_spaces_before_the_end_are_reported_with_their_place() -> None:
    late = "{%- generation %}{{ m.content }}{{ '    <|im_end|>' }}{% endgeneration %}"
    message = rejected(variant(PLAIN, late + "\n        {{- '\\n' }}"), [HELLO])
    at = TOKENIZER.render(HELLO.messages, None).rindex("<|im_end|>")
    assert f"at character {at}, after " in message and "Hello!'" in message
    assert r"expected '<|im_end|>\n', got '    <|im_end|>\n'" in message


def test_missing_tags_are_reported() -> None:
    plain = variant(PLAIN, "{{- m.content + '<|im_end|>' + '\\n' }}")
    assert "marks 0 stretches as trained, expected 1" in rejected(plain, [HELLO])


def test_tags_that_are_not_jinja_are_reported() -> None:
    rejected(TAGS + "{% endif %}", [HELLO])


def test_tags_that_refuse_a_row_are_reported() -> None:
    assert "too short" in rejected(TAGS + "{{ raise_exception('too short') }}", [HELLO])


def test_tags_that_fail_in_python_are_reported() -> None:
    rejected(TAGS + "{{ 1 + 'x' }}", [HELLO])


def test_untrained_answer_needs_no_prompt_with_tags_either() -> None:
    """A row that is proven without tags is proven with correct ones."""
    first = Message(Role.ASSISTANT, "Welcome!", train=False)
    row = replace(HELLO, messages=(first, *HELLO.messages))
    alone = list(masks.Encoder(TOKENIZER, DataSettings()).run([row]))
    chats, problems, _ = witnessed(TAGS, [row])
    assert chats == alone and not problems


Folder = Callable[[str | None], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A tokenizer folder like tiny's with another chat template."""

    def make(template: str | None) -> Path:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / name, tmp_path)
        if template is not None:
            (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
        return tmp_path

    return make


def own(part: str, new: str) -> str:
    return variant(part, new, TOKENIZER.template)


PROMPT = "{%- if add_generation_prompt %}{{ open('assistant') + '\\n' }}{% endif %}"
TURN = "{{- open(m.role) + '\\n' + m.content + close() }}"
LAST = "{%- elif m.role == 'assistant' and not loop.last %}{{- open(m.role) + '\\n…' + close() }}"
STRIPPED = TURN.replace("m.content", "m.content | trim")
UNPROVEN = {
    "no end token": (own("'<|im_end|>\\n'", "'\\n'"), "no control token ends an answer"),
    "another prompt": (own("'assistant') + '\\n'", "'model') + '\\n'"), "does not follow"),
    "answer left out": (own(TURN, "{{- open(m.role) + '\\n' + close() }}"), "does not follow"),
    "answer refused": (own(TURN, "{{- raise_exception('never') }}"), "never"),
    "answer fails": (own(TURN, TURN + "{{ 1 + 'x' }}"), "unsupported operand"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVEN)
def test_template_that_cannot_be_proven(folder: Folder, name: str) -> None:
    template, why = UNPROVEN[name]
    with pytest.raises(TemplateError) as caught:
        masks.Encoder(masks.load(folder(template), "odd"), DataSettings())
    assert caught.value.where == "odd" and caught.value.hint
    assert "cannot be proven" in caught.value.what and why in caught.value.what


@pytest.mark.parametrize(
    "template",
    [own(PROMPT, ""), own("'<|im_start|>' + role", "'## ' + role")],
    ids=["no generation prompt", "plain header"],
)
def test_headers_that_cannot_be_counted(folder: Folder, template: str) -> None:
    tokenizer = masks.load(folder(template), "odd")
    assert not masks.learn(tokenizer).counts_headers
    (result,) = masks.Encoder(tokenizer, DataSettings()).run([TWO])
    assert isinstance(result, EncodedChat), result
    trained = [TOKENIZER.decode(result.ids[start:end]) for start, end in result.spans]
    assert [text.removeprefix("<|im_start|>assistant\n") for text in trained] == [
        f"{message.content}<|im_end|>" for message in TWO.messages if message.role is Role.ASSISTANT
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_tags_in_no_regular_file_are_never_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: {name: tiny}\ndata: {train: a.jsonl}\ntemplate: {generation_tags: t.jinja}\n"
    )
    os.mkfifo(tmp_path / "t.jinja")
    assert run(["check", str(config)]) == 1
    assert "cannot be read: it is a named pipe, not a file" in " ".join(
        capfd.readouterr().err.split()
    )


def test_no_chat_template(folder: Folder) -> None:
    with pytest.raises(TemplateError, match="odd: has no chat template") as caught:
        masks.load(folder(None), "odd")
    assert caught.value.hint


def test_invalid_jinja(folder: Folder) -> None:
    with pytest.raises(TemplateError, match=r"not valid Jinja, line 2: ") as caught:
        masks.load(folder("{% for m in messages %}\n{% endif %}"), "odd")
    assert caught.value.where == "odd" and caught.value.hint


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"odd: has no tokenizer\.json"):
        masks.load(tmp_path, "odd")


def test_template_inside_the_tokenizer_config(folder: Folder) -> None:
    path = folder(None) / "tokenizer_config.json"
    config = orjson.loads(path.read_bytes())
    listed = [
        {"name": "default", "template": TOKENIZER.template},
        {"name": "tool_use", "template": own("# Tools", "# Instruments")},
    ]
    path.write_bytes(orjson.dumps({**config, "chat_template": listed}))
    tokenizer = masks.load(path.parent, "odd")
    assert tokenizer.template == TOKENIZER.template
    assert "# Instruments" in tokenizer.render(HELLO.messages, [{"name": "f"}])
    assert "# Tools" not in tokenizer.render(HELLO.messages, None)


def encode(template: str, folder: Folder, row: Conversation, **settings: Any) -> Any:
    encoder = masks.Encoder(masks.load(folder(template), "odd"), DataSettings(**settings))
    (result,) = encoder.run([row])
    return result


TWO = asked(
    Message(Role.ASSISTANT, "Hello!"),
    Message(Role.USER, "Well?"),
    Message(Role.ASSISTANT, "Well."),
)
REWRITING = own("{%- elif m.role in", LAST + "\n    {%- elif m.role in")


def test_answer_rewritten_once_turns_follow_may_be_read(folder: Folder) -> None:
    """What the template drops of an earlier answer is an error all the same, unless allowed."""
    lost = encode(REWRITING, folder, TWO, train_on="last_assistant")
    assert isinstance(lost, Problem)
    assert (lost.kind, lost.path) == (Kind.SWALLOWED, "messages[1].content")
    encoder = masks.Encoder(
        masks.load(folder(REWRITING), "odd"),
        DataSettings(train_on="last_assistant", swallowed="warn"),
    )
    warning, result = encoder.run([TWO])
    assert isinstance(warning, Problem) and warning.severity is Severity.WARNING
    assert isinstance(result, EncodedChat)
    ((start, end),) = result.spans
    assert TOKENIZER.decode(result.ids[start:end]) == "Well.<|im_end|>"


def test_answer_trimmed_by_the_template_is_trained_trimmed(folder: Folder) -> None:
    row = asked(Message(Role.ASSISTANT, "\n Hello! \n"))
    result = encode(own(TURN, STRIPPED), folder, row)
    assert isinstance(result, EncodedChat)
    ((start, end),) = result.spans
    assert TOKENIZER.decode(result.ids[start:end]) == "Hello!<|im_end|>"


@pytest.mark.parametrize("failing", ["raise_exception('no names')", "'from ' + m.name", "1 // 0"])
def test_row_that_the_template_cannot_render_is_refused(folder: Folder, failing: str) -> None:
    """Whatever goes wrong in a template is a finding about the row, never a crash."""
    named = "{%- if m.name %}{{ FAILING }}{% endif %}".replace("FAILING", failing)
    row = replace(HELLO, messages=(*HELLO.messages, Message(Role.USER, "?", extra={"name": 3})))
    result = encode(own(TURN, named + TURN), folder, row)
    assert isinstance(result, Problem)
    assert result.kind is Kind.TEMPLATE and result.path == "messages" and result.hint


def test_tags_agree_on_any_day(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Transformers' own rendering knows today's date alone; a run may name another."""
    day = "{{ strftime_now('%d %b %Y') }}"
    tokenizer = masks.load(
        folder(day + TOKENIZER.template), "dated", TemplateSettings(date=date(2020, 2, 29))
    )
    encoder = masks.Encoder(tokenizer, DataSettings(), (day + TAGS, "t.jinja"))
    found = list(encoder.run([asked(Message(Role.ASSISTANT, "Hello!"))]))
    (result,) = (one for one in found if isinstance(one, EncodedChat))
    assert TOKENIZER.decode(result.ids).startswith("29 Feb 2020")
    assert encoder.counts.num_agreed_tags == 1 and encoder.counts.tags_problem is None
