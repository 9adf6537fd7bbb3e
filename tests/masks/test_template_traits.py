"""Templates put together from traits of real families: every answer as inference sees it.

The oracle is Transformers alone: for each trained answer the ids before it are those of
`apply_chat_template(messages before it, add_generation_prompt=True)`, and what is trained is what
the same template puts behind that prompt for it, through a stop token.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from lorawright import hub, masks
from lorawright.config.schema import DataSettings, TrainOn
from lorawright.errors import TemplateError
from lorawright.types import Conversation, EncodedChat, Message, Problem, Role, Severity

TINY = hub.tokenizer_folder("tiny")
WORDS = (
    "2▁+▁2▁So?▁x▁I▁think▁0123.▁Be▁brief.▁good▁USER:▁ASSISTANT:▁SYSTEM:",
    "<think>▁</think>",
)
ROLES = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|return|>", "<bos>")


@dataclass(frozen=True)
class Traits:
    """How a family's template differs from plain ChatML.

    Attributes:
        header: What a turn begins with: ChatML's, one token a role, or plain text.
        end: What ends an answer: a token; another one for the newest (gpt-oss); the next turn's
            first token (GLM); a token that is written only before a user's turn (Apertus).
        system: As a turn; a default one; before the last question (Mistral); refused (Gemma 2).
        reasoning: Dropped; rendered for the newest answers only, or always; or the prompt opens it.
        trims: Whether content is trimmed.
        prompts: Whether there is a generation prompt.
    """

    header: str = "chatml"
    end: str = "token"
    system: str = "turn"
    reasoning: str = "dropped"
    trims: bool = False
    prompts: bool = True


CHOICES: dict[str, tuple[Any, ...]] = {
    "header": ("chatml", "role token", "text"),
    "end": ("token", "newest", "next turn", "before user"),
    "system": ("turn", "default", "last question", "refused"),
    "reasoning": ("dropped", "newest", "always", "opened", "empty block"),
    "trims": (False, True),
    "prompts": (True, False),
}
HEADERS = {
    "chatml": "'<|im_start|>' + {role} + '\\n'",
    "role token": "'<|' + {role} + '|>'",
    "text": "{role} | upper + ': '",
}
CONTENT = {True: "(m.content | trim)", False: "m.content"}


def template(traits: Traits) -> str:
    """Jinja source."""
    header = HEADERS[traits.header].format
    own = "('<|im_end|>' + ('\\n' if {chatml} else ''))".format(
        chatml=str(traits.header == "chatml").lower()
    )
    end = {
        "token": own,
        "newest": f"('<|return|>' if loop.last and m.role == 'assistant' else {own})",
        "next turn": f"('' if m.role == 'assistant' else {own})",
        "before user": (
            f"('' if m.role == 'assistant' and (loop.last or loop.nextitem.role != 'user')"
            f" else {own})"
        ),
    }[traits.end]
    block = "'<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n'"
    newest = "m.role == 'assistant' and loop.index0 > last.user"
    thought = {
        "dropped": "",
        "newest": f"{{%- if {newest} and m.reasoning_content %}}{{{{ {block} }}}}{{% endif %}}",
        "always": (
            "{%- if m.role == 'assistant' and m.reasoning_content %}{{ " + block + " }}{% endif %}"
        ),
        "opened": f"{{%- if {newest} %}}{{{{ {block} }}}}{{% endif %}}",
        "empty block": f"{{%- if {newest} %}}{{{{ {block} }}}}{{% endif %}}",
    }[traits.reasoning]
    content = CONTENT[traits.trims]
    loop = "messages"
    lines = [
        "{%- set last = namespace(user=-1) %}",
        "{%- for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}"
        "{% endif %}{% endfor %}",
        "{{- '<bos>' }}",
    ]
    if traits.system == "default":
        lines.append(
            "{%- if messages[0].role != 'system' %}{{ "
            + header(role="'system'")
            + " + 'Be good.' + "
            + own
            + " }}{% endif %}"
        )
    if traits.system == "refused":
        lines.append("{%- if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}")
    if traits.system == "last question":
        lines.append(
            "{%- set system = messages[0].content + '\\n' if messages[0].role == 'system' else ''"
            " %}"
        )
        loop = "messages if m.role != 'system'"
        content = f"((system if m.role == 'user' and loop.last else '') + {content})"
    lines += [
        f"{{%- for m in {loop} %}}",
        "{{- " + header(role="m.role") + " }}",
        thought,
        "{{- " + content + " + " + end + " }}",
        "{%- endfor %}",
    ]
    if traits.prompts:
        opened = " + '<think>\\n'" if traits.reasoning == "opened" else ""
        lines.append(
            "{%- if add_generation_prompt %}{{ " + header(role="'assistant'") + opened + " }}"
            "{% endif %}"
        )
    return "".join(lines)


@cache
def vocabulary(kind: str) -> bytes:
    """`byte-level`, or a kind of `sentencepiece`."""
    if kind == "byte-level":
        backend = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    else:
        backend = sentencepiece(kind, WORDS)
    backend.add_special_tokens([AddedToken(token, special=True) for token in ROLES])
    return backend.to_str().encode()


def folder(base: Path, traits: Traits, kind: str = "byte-level") -> Path:
    path = base / "model"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(TINY, path, ignore=shutil.ignore_patterns("*.safetensors"))
    (path / "tokenizer.json").write_bytes(vocabulary(kind))
    (path / "chat_template.jinja").write_text(template(traits), encoding="utf-8")
    backend = Tokenizer.from_buffer(vocabulary(kind))
    stops = {
        "token": ["<|im_end|>"],
        "newest": ["<|return|>"],
        "next turn": ["<|im_start|>", "<|user|>", "<|system|>"],
        "before user": ["<|im_end|>"],
    }[traits.end]
    ids = [backend.token_to_id(token) for token in stops]
    (path / "generation_config.json").write_bytes(orjson.dumps({"eos_token_id": ids}))
    config = orjson.loads((path / "config.json").read_bytes())
    (path / "config.json").write_bytes(orjson.dumps({**config, "eos_token_id": ids}))
    named = orjson.loads((path / "tokenizer_config.json").read_bytes())
    named["eos_token"] = stops[0]
    (path / "tokenizer_config.json").write_bytes(orjson.dumps(named))
    return path


TEXTS = st.sampled_from(["Hi", "\nHi ", "2 + 2", " 每天", "So?\n\n", "x"])


@st.composite
def rows(draw: st.DrawFn) -> Conversation:
    messages = [Message(Role.SYSTEM, "Be brief.")] if draw(st.booleans()) else []
    thinks = draw(st.sampled_from(["never", "always", "sometimes"]))
    for number in range(draw(st.integers(1, 3))):
        extra = {}
        if thinks == "always" or (thinks == "sometimes" and draw(st.booleans())):
            extra = {"reasoning_content": f"I think {number}."}
        train = draw(st.sampled_from([None, None, None, False]))
        messages += [
            Message(Role.USER, draw(TEXTS)),
            Message(Role.ASSISTANT, draw(TEXTS), train=train, extra=extra),
        ]
    return Conversation(tuple(messages), None, "rows.jsonl", 3)


class Oracle:
    """Prompts and answers by Transformers alone."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(path)  # tokenizer.json as it is

    def prompt(self, row: Conversation, index: int) -> list[int]:
        turns = [message.for_template() for message in row.messages[:index]]
        ids = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        return list(ids)

    def answer(self, row: Conversation, index: int) -> tuple[str, str] | None:
        """The text behind the prompt, and the prompt's; None if it is not behind it."""
        before, upto = (
            self.tokenizer.apply_chat_template(
                [message.for_template() for message in row.messages[:number]],
                add_generation_prompt=number == index,
                tokenize=False,
            )
            for number in (index, index + 1)
        )
        return (upto[len(before) :], before) if upto.startswith(before) else None


traits_of = st.builds(Traits, **{name: st.sampled_from(found) for name, found in CHOICES.items()})


def solid(text: str) -> str:
    """Without white space: SentencePiece writes a space behind control tokens."""
    return "".join(text.split())


def check_row(tokenizer: masks.ChatTokenizer, oracle: Oracle, row: Conversation) -> int:
    """Holds a row's result against the oracle; gives the number of its answers that are trained."""
    encoder = masks.Encoder(tokenizer, DataSettings(untrained="drop", invalid="drop"))
    found = list(encoder.run([row]))
    sequences = [item for item in found if isinstance(item, EncodedChat)]
    problems = [
        item for item in found if isinstance(item, Problem) and item.severity != Severity.WARNING
    ]
    assert bool(sequences) != bool(problems)
    for problem in problems:
        assert problem.hint and problem.where == "rows.jsonl:3"
    wanted = masks.trained_turns(row, TrainOn.ASSISTANT)
    spans = [(one, *span) for one in sequences for span in one.spans]
    if not sequences:
        return 0
    stops = set(encoder.markers.stop_ids)
    for index, (one, start, end) in zip(wanted, spans, strict=True):
        assert list(one.ids[:start]) == oracle.prompt(row, index)
        assert one.ids[end - 1] in stops and not stops.intersection(one.ids[start : end - 1])
        trained = tokenizer.decode(one.ids[start:end])
        expected = oracle.answer(row, index)
        stop = tokenizer.decode([one.ids[end - 1]])
        if expected is not None:
            body = expected[0].partition(stop)[0]
            assert solid(trained.removesuffix(stop)) == solid(body)
        assert solid(row.messages[index].content or "") in solid(trained)
        assert solid(str(row.messages[index].extra.get("reasoning_content", ""))) in solid(trained)
    return len(wanted)


@settings(
    max_examples=120, derandomize=True, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    traits_of,
    st.sampled_from(["byte-level", "byte-level", "prepend", "first", "always"]),
    st.lists(rows(), min_size=1, max_size=3),
)
def test_any_template_is_trained_as_inference_sees_it(
    tmp_path: Path, traits: Traits, kind: str, chats: list[Conversation]
) -> None:
    path = folder(tmp_path, traits, kind)
    tokenizer = masks.load(path, "odd")
    try:
        masks.learn(tokenizer)
    except TemplateError as error:
        assert error.hint
        return
    oracle = Oracle(path)
    for row in chats:
        check_row(tokenizer, oracle, row)


THREE = Conversation(
    tuple(
        itertools.chain.from_iterable(
            (Message(Role.USER, asked), Message(Role.ASSISTANT, said))
            for asked, said in [("Hi", "Hello."), ("And?", "So."), ("每", "每天")]
        )
    ),
    None,
    "rows.jsonl",
    3,
)
THOUGHT = replace(
    THREE,
    messages=tuple(
        replace(message, extra={"reasoning_content": f"I think {number}."})
        if message.role is Role.ASSISTANT
        else message
        for number, message in enumerate(THREE.messages)
    ),
)
FAMILIES: dict[str, tuple[Traits, Conversation, int]] = {
    "Qwen2.5": (Traits(), THREE, 1),
    "Qwen3": (Traits(reasoning="empty block"), THREE, 3),
    "Qwen3, reasoning": (Traits(reasoning="empty block"), THOUGHT, 3),
    "Qwen3.5, Nemotron 3": (Traits(reasoning="opened"), THOUGHT, 3),
    "gpt-oss": (Traits(header="role token", end="newest", system="default"), THREE, 3),
    "GLM 4": (Traits(header="role token", end="next turn"), THREE, 1),
    "GLM 4.5, reasoning": (
        Traits(header="role token", end="next turn", reasoning="newest"), THOUGHT, 3,
    ),
    "Apertus": (Traits(header="role token", end="before user"), THREE, 1),
    "Seed-OSS": (Traits(reasoning="always"), THOUGHT, 1),
    "Llama 3": (Traits(trims=True), THREE, 1),
    "Mistral, no prompt": (Traits(header="role token", prompts=False), THREE, 1),
    "Vicuna": (Traits(header="text"), THREE, 3),  # "ASSISTANT: " and "Hello" are read as " Hello"
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families(tmp_path: Path, name: str) -> None:
    traits, row, num_sequences = FAMILIES[name]
    path = folder(tmp_path, traits)
    tokenizer = masks.load(path, name)
    assert check_row(tokenizer, Oracle(path), row) == 3
    found = list(masks.Encoder(tokenizer, DataSettings()).run([row]))
    assert sum(isinstance(item, EncodedChat) for item in found) == num_sequences


def test_system_message_before_the_last_question(tmp_path: Path) -> None:
    """Mistral: it is gone from the text once the question is answered, never from a prompt."""
    traits = Traits(header="role token", system="last question")
    path = folder(tmp_path, traits)
    tokenizer = masks.load(path, "mistral")
    row = replace(THREE, messages=(Message(Role.SYSTEM, "Be brief."), *THREE.messages))
    assert check_row(tokenizer, Oracle(path), row) == 3
    found = list(masks.Encoder(tokenizer, DataSettings()).run([row]))
    assert [item.num_sequences for item in found if isinstance(item, EncodedChat)] == [3] * 3
    assert all("Be brief." in tokenizer.decode(item.ids) for item in found)  # type: ignore[union-attr]


def test_system_message_that_is_refused(tmp_path: Path) -> None:
    tokenizer = masks.load(folder(tmp_path, Traits(system="refused")), "gemma")
    row = replace(THREE, messages=(Message(Role.SYSTEM, "Be brief."), *THREE.messages))
    (problem,) = masks.Encoder(tokenizer, DataSettings()).run([row])
    assert isinstance(problem, Problem) and "refuses this chat: no" in problem.message
