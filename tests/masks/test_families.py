"""Templates and vocabularies of other kinds than tiny's: trained rightly, or refused in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers import sentencepiece
from tokenizers import AddedToken, Tokenizer

from lorawright import hub, masks
from lorawright.config.schema import DataSettings
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
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
ADD_PROMPT = "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
PLAIN = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') + '<|im_end|>"
    "\\n' }}{% endfor %}" + ADD_PROMPT
)
TOOL = {
    "type": "function",
    "function": {
        "name": "find_book",
        "description": 'Finds a "book" & its <price>.\nÜber alles.',
        "parameters": {"type": "object", "properties": {"title": {"type": "string"}}},
    },
}
ODD = {"title": "A <b> & 'c' \"d\"\n\té \\ 每", "n": 3.5, "all": True, "deep": {"x": [1, None]}}

Load = Callable[..., masks.ChatTokenizer]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Tiny's folder with another template, vocabulary, or stop tokens."""

    def make(
        template: str | None = None,
        backend: Tokenizer | None = None,
        stops: list[str] | None = None,
    ) -> masks.ChatTokenizer:
        folder = tmp_path / "model"
        shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        if backend is not None:
            backend.save(str(folder / "tokenizer.json"))
        found = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = orjson.loads((folder / "config.json").read_bytes())
        ids = [found.token_to_id(token) for token in stops or ["<|im_end|>"]]
        (folder / "config.json").write_bytes(orjson.dumps({**config, "eos_token_id": ids}))
        (folder / "generation_config.json").unlink()
        named = orjson.loads((folder / "tokenizer_config.json").read_bytes())
        named["eos_token"] = (stops or ["<|im_end|>"])[0]
        (folder / "tokenizer_config.json").write_bytes(orjson.dumps(named))
        return masks.load(folder, "odd")

    return make


def row(*messages: Message, tools: list[Any] | None = None) -> Conversation:
    return Conversation(messages, None if tools is None else tuple(tools), "rows.jsonl", 3)


def user(content: str) -> Message:
    return Message(Role.USER, content)


def answer(content: str | None, *calls: ToolCall, **extra: Any) -> Message:
    return Message(Role.ASSISTANT, content, calls, extra=extra)


def encode(tokenizer: masks.ChatTokenizer, chat_: Conversation, **settings: Any) -> list[Any]:
    return list(masks.Encoder(tokenizer, DataSettings(**settings)).run([chat_]))


def trained(tokenizer: masks.ChatTokenizer, found: list[Any]) -> list[str]:
    encoded = next(item for item in found if isinstance(item, EncodedChat))
    return [tokenizer.decode(encoded.ids[start:end]) for start, end in encoded.spans]


THREE = row(
    user("Hi"),
    answer("Every day is good."),
    user("Two?"),
    answer("Hello! Every"),
    user("每天?"),
    answer("每天都好。"),
)


@pytest.mark.parametrize("kind", ["prepend", "first", "always"])
def test_dummy_prefix_is_not_trained(load: Load, kind: str) -> None:
    """Prompts are what inference reads, answers what follows in the whole text, through the end."""
    tokenizer = load(PLAIN, sentencepiece(kind))
    assert not tokenizer.reads_pieces_alone
    (encoded,) = encode(tokenizer, THREE)
    assert isinstance(encoded, EncodedChat), encoded

    def ids(num_messages: int, *, asks: bool) -> list[int]:
        text = tokenizer.render(THREE.messages[:num_messages], None, generation_prompt=asks)
        return tokenizer.backend.encode(text, add_special_tokens=False).ids

    assert list(encoded.ids) == ids(6, asks=False)
    for number, (start, end) in zip((1, 3, 5), encoded.spans, strict=True):
        assert list(encoded.ids[:start]) == ids(number, asks=True)
        assert list(encoded.ids[:end]) == ids(number + 1, asks=False)[:end]
        first = tokenizer.backend.id_to_token(encoded.ids[start])
        assert not first.startswith("▁")
        assert encoded.ids[end - 1] == tokenizer.control_ids["<|im_end|>"]


def test_dummy_prefix_and_text_that_spells_a_control_token(load: Load) -> None:
    tokenizer = load(PLAIN, sentencepiece("prepend"))
    chat_ = row(user("say <|im_end|>"), answer("Hello!"))
    (problem,) = encode(tokenizer, chat_, special_tokens_in_text="escape")
    assert isinstance(problem, Problem) and problem.kind is Kind.MASK
    assert "cannot read as plain text" in problem.message and problem.hint


def test_answer_whose_ids_are_not_its_own_is_refused(load: Load) -> None:
    """The end of the prompt is one token with the beginning of the answer."""
    template = PLAIN.replace("(m.content", "('He' if m.role == 'assistant' else '') + (m.content")
    tokenizer = load(template.replace("assistant\\n'", "assistant\\nHe'"), sentencepiece("prepend"))
    (problem,) = encode(tokenizer, row(user("Hi"), answer("llo!")))
    assert isinstance(problem, Problem)
    assert "no ids are the answer's alone" in problem.message and problem.hint


def test_text_that_the_vocabulary_cannot_write(load: Load) -> None:
    tokenizer = load(PLAIN, sentencepiece("prepend"))
    (problem,) = encode(tokenizer, row(user("Hi"), answer("A zero: Ø")))
    assert (problem.kind, problem.severity) == (Kind.SWALLOWED, Severity.ERROR)
    assert "unknown tokens" in problem.message and "`data.swallowed: warn`" in problem.hint
    warning, found = encode(tokenizer, row(user("Hi"), answer("A zero: Ø")), swallowed="warn")
    assert warning.severity is Severity.WARNING and isinstance(found, EncodedChat)


def test_byte_level_vocabularies_are_cut_as_before(load: Load) -> None:
    assert load().reads_pieces_alone


def test_history_that_a_server_reads_otherwise_is_a_sequence_of_its_own(load: Load) -> None:
    """The header's newline and the answer's are one token in history, two where it is answered."""
    tokenizer = load()
    chat_ = row(user("Hi"), answer("\nOne."), user("More"), answer("Two."))
    first, second = encode(tokenizer, chat_)
    assert trained(tokenizer, [first]) == ["\nOne.<|im_end|>"]
    assert trained(tokenizer, [second]) == ["Two.<|im_end|>"]
    assert first.ids[-1] == first.ids[first.spans[0][1] - 1]  # nothing behind its last answer
    prompt = tokenizer.render(chat_.messages[:3], None, generation_prompt=True)
    assert tokenizer.encode([prompt])[0] == list(second.ids[: second.spans[0][0]])
    assert list(second.ids[: len(first.ids)]) != list(first.ids)


STOPS_LATER = PLAIN.replace(
    "(m.content or '') + '<|im_end|>", "(m.content or '') + '<|im_end|><|endoftext|>"
)


def test_span_goes_through_the_token_at_which_the_model_stops(load: Load) -> None:
    tokenizer = load(STOPS_LATER, stops=["<|endoftext|>"])
    found = encode(tokenizer, row(user("Hi"), answer("Hello!"), user("?"), answer("Yes.")))
    assert trained(tokenizer, found) == [
        "Hello!<|im_end|><|endoftext|>",
        "Yes.<|im_end|><|endoftext|>",
    ]
    assert masks.learn(tokenizer).end_id == tokenizer.control_ids["<|endoftext|>"]


def test_end_at_which_a_base_model_does_not_stop_is_trained(load: Load) -> None:
    tokenizer = load(PLAIN, stops=["<|endoftext|>"])
    found = encode(tokenizer, row(user("Hi"), answer("Hello!"), user("?"), answer("Yes.")))
    assert trained(tokenizer, found) == ["Hello!<|im_end|>", "Yes.<|im_end|>"]
    assert masks.learn(tokenizer).is_new_stop


def test_control_token_behind_the_last_answer_alone_is_no_end(load: Load) -> None:
    only_last = "('<|im_end|>' if loop.last and m.role == 'assistant' else '\\n')"
    tokenizer = load(PLAIN.replace("'<|im_end|>\\n'", only_last), stops=["<|endoftext|>"])
    with pytest.raises(TemplateError, match=r"only the last answer with `<\|im_end\|>`") as e:
        masks.learn(tokenizer)
    assert "`<|endoftext|>`" in e.value.what and e.value.hint


@pytest.mark.parametrize("special", [False, True])
def test_header_of_an_added_token_that_is_not_special(load: Load, special: bool) -> None:
    """DeepSeek V3: its roles are added tokens that pass for text; spelled, they are refused."""
    backend = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    backend.add_tokens([AddedToken("<|Assistant|>", special=special)])
    template = PLAIN.replace("'<|im_start|>assistant\\n'", "'<|Assistant|>'").replace(
        "'<|im_start|>' + m.role + '\\n'",
        "('<|Assistant|>' if m.role == 'assistant' else '<|im_start|>')",
    )
    tokenizer = load(template, backend)
    assert masks.learn(tokenizer).header == "<|Assistant|>"
    assert trained(tokenizer, encode(tokenizer, THREE))[0] == "Every day is good.<|im_end|>"
    forged = row(user("say <|Assistant|>"), answer("No."))
    (problem,) = encode(tokenizer, forged)
    assert (problem.kind, problem.path) == (Kind.FORGED, "messages[0].content")
    (found,) = encode(tokenizer, forged, special_tokens_in_text="escape")
    assert isinstance(found, EncodedChat) is special
    assert special or "turns begin with" in found.message


CALLS = (
    "{%- if tools %}{{ '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.reasoning_content %}{{ THINKING }}{% endif %}"
    "{{- m.content | default('', true) | trim }}"
    "{%- for c in m.tool_calls or [] %}{{ CALL }}{% endfor %}"
    "{{- '<|im_end|>\\n' }}{% endfor %}" + ADD_PROMPT
)
CALLS = CALLS.replace("THINKING", "'<think>' + m.reasoning_content | trim + '</think>'")
WRITTEN = {
    "json": "c.function.name + (c.function.arguments | tojson)",
    "ascii": "c.function.name + (c.function.arguments | tojson(ensure_ascii=true, indent=2))",
    "escaped": "c.function.name + (c.function.arguments | tojson | e)",
    "python": "c.function.name + (c.function.arguments | string)",
    "twice": "c.function.name + (c.function.arguments | tojson | tojson)",
}
CALLING = row(
    user("Find it"),
    answer("  Let me look.\n", ToolCall("find_book", ODD), reasoning_content=" I must look. "),
    Message(Role.TOOL, '{"price": "3 €",\n "left": true}'),
    answer("It costs 3 €."),
    tools=[TOOL],
)


@pytest.mark.parametrize("written", WRITTEN)
def test_what_a_template_writes_in_its_own_way_is_not_missing(load: Load, written: str) -> None:
    tokenizer = load(CALLS.replace("CALL }}", WRITTEN[written] + " }}"))
    (encoded,) = encode(tokenizer, CALLING)
    assert isinstance(encoded, EncodedChat), encoded


SWALLOWS = {
    "tool_calls[0].function.name": ("{{ CALL }}", ""),
    "tool_calls[0].function.arguments.title": ("{{ CALL }}", "{{ c.function.name }}"),
    "reasoning_content": ("'<think>' + m.reasoning_content | trim + '</think>'", "''"),
    "content": ("m.content | default('', true) | trim", "'' if m.tool_calls else m.content"),
}


@pytest.mark.parametrize("path", SWALLOWS)
def test_what_a_template_drops_of_an_answer_is_an_error(load: Load, path: str) -> None:
    old, new = SWALLOWS[path]
    assert old in CALLS
    template = CALLS.replace(old, new).replace("CALL }}", WRITTEN["json"] + " }}")
    tokenizer = load(template)
    (problem,) = encode(tokenizer, CALLING)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.severity) == (Kind.SWALLOWED, Severity.ERROR)
    assert problem.path == f"messages[1].{path}" and problem.where == "rows.jsonl:3"
    assert "dropped by this model's chat template" in problem.message and problem.hint
    warning, encoded = encode(tokenizer, CALLING, swallowed="warn")
    assert warning.severity is Severity.WARNING and isinstance(encoded, EncodedChat)


def test_tools_and_untrained_messages_that_are_dropped(load: Load) -> None:
    no_tools = CALLS[CALLS.index("{%- for m") :].replace("CALL }}", WRITTEN["json"] + " }}")
    no_system = no_tools.replace(
        "{%- for m in messages %}", "{%- for m in messages if m.role != 'system' %}"
    )
    tokenizer = load(no_system)
    (problem,) = encode(tokenizer, CALLING)
    assert (
        problem.path == "tools[0].function.description" or problem.path == "tools[0].function.name"
    )
    (problem,) = encode(
        tokenizer, row(Message(Role.SYSTEM, "Be brief."), user("Hi"), answer("Hello!"))
    )
    assert (problem.kind, problem.path) == (Kind.SWALLOWED, "messages[0].content")


def test_reasoning_of_an_untrained_answer_may_be_dropped_as_inference_drops_it(load: Load) -> None:
    template = PLAIN.replace("(m.content or '')", "(m.content or '').split('</think>')[-1]")
    chat_ = row(
        user("Hi"), answer("<think>Hm.</think>One."), user("More"), answer("Two.", name="Bob")
    )
    encoder = masks.Encoder(load(template), DataSettings(train_on="last_assistant"))
    (encoded,) = encoder.run([chat_])
    assert isinstance(encoded, EncodedChat), encoded
    assert dict(encoder.counts.idle_keys) == {"name": 1}


def test_call_without_text_for_a_template_that_wants_text(load: Load) -> None:
    template = CALLS.replace("m.content | default('', true) | trim", "m.content.strip()")
    tokenizer = load(template.replace("CALL }}", WRITTEN["json"] + " }}"))
    chat_ = row(user("Find"), answer(None, ToolCall("find_book", {"title": "X"})), tools=[TOOL])
    found = encode(tokenizer, chat_)
    assert trained(tokenizer, found) == ['find_book{"title": "X"}<|im_end|>']


REWRITTEN = "(m.content | upper if m.role == 'assistant' and not loop.last else m.content)"


def test_answer_that_is_rendered_otherwise_later_makes_sequences(load: Load) -> None:
    tokenizer = load(PLAIN.replace("(m.content or '')", REWRITTEN))
    chat_ = row(user("hi"), answer("One."), user("b"), answer("Two."))
    first, second = encode(tokenizer, chat_)
    assert (first.sequence, second.sequence, first.num_sequences) == (0, 1, 2)
    assert trained(tokenizer, [first]) == ["One.<|im_end|>"]
    assert trained(tokenizer, [second]) == ["Two.<|im_end|>"]
    assert "ONE." in tokenizer.decode(second.ids) and "One." not in tokenizer.decode(second.ids)
    (problem,) = encode(tokenizer, chat_, train_on="all")
    assert "no one text to train all of" in problem.message
    assert "`data.train_on: assistant`" in problem.hint
