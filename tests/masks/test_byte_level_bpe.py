"""Ids by tiktoken are the tokenizer's own, and what may not be so goes to it whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
import tokenizers
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright import hub, masks
from lorawright.config.schema import DataSettings
from lorawright.errors import TemplateError
from lorawright.masks import byte_level_bpe, id_reader
from lorawright.masks.byte_level_bpe import ByteLevelBpe
from lorawright.types import Conversation, EncodedChat, Message, Role

TOKENIZER = masks.load(hub.tokenizer_folder("tiny"), "tiny")
BACKEND = TOKENIZER.backend
PARTS = (
    "Hi", " you", "'s", "'LL", "'\u017f", "\u212a", "ß", "123", "½", "²", "你好", "，", " ", "  ",
    "\n", "\r\n", "\n \n", "\t", "\u00a0", "\u3000", "\u0085", "\u2028", "\x1c", "\ufeff", "❤️",
    "👩\u200d👩", "e\u0301", "é", "\u0301", "각", "\u1100", "\u1161", "ا", "ﷺ", "…", "--", "_",
    "<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<tool_call>",
)  # fmt: skip


def whole(texts: Sequence[str]) -> list[list[int]]:
    found = BACKEND.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in found]


def made() -> ByteLevelBpe:
    found = ByteLevelBpe.of(BACKEND)
    assert found is not None
    return found


FAST = replace(TOKENIZER, bpe=made())


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=12).map("".join))
def test_any_text_has_the_tokenizers_ids(text: str) -> None:
    assert FAST.encode([text]) == whole([text])


def test_random_texts_of_characters_that_pass() -> None:
    """Most characters pass, and texts of them do not take the way round."""
    fast, drawn = made(), random.Random(1)
    common = [chr(code) for code in (*range(0x530), *range(0x3000, 0x3100), *range(0x4E00, 0x5200))]
    passing = [character for character in common if fast.encode([character]) != [None]]
    assert len(passing) > 0.85 * len(common)
    texts = [
        "".join(drawn.choice([drawn.choice(passing), *" \n'sa1!"]) for _ in range(40))
        for _ in range(4000)
    ]
    found = fast.encode(texts)
    assert all(a is None or a == b for a, b in zip(found, whole(texts), strict=True))
    assert sum(ids is None for ids in found) < 100, "only what is not in normal form"


@pytest.mark.parametrize("text", ["e\u0301", "a\u0378", "\u1100\u1161", " " * 100_001])
def test_what_is_not_certain_goes_whole(text: str) -> None:
    """Not in normal form, not assigned in the tables of normal forms, or longer than its stack."""
    assert made().encode([text, "fine"]) == [None, whole(["fine"])[0]]
    assert FAST.encode([text]) == whole([text])


@pytest.mark.parametrize("character", [" ", "a", "好", "\n", "^", "1"])
def test_long_runs_of_one_character(character: str) -> None:
    text = character * 100_000
    assert made().encode([text]) == whole([text])


def test_added_tokens_are_the_longest_that_fit(tmp_path: object) -> None:
    """`<|x|>` inside `<|x|><|y|>`: the tokenizer takes the longer one, whatever their order."""
    backend = tokenizers.Tokenizer.from_str(BACKEND.to_str())
    backend.add_special_tokens(["<|x|>", "<|x|><|y|>"])
    fast = ByteLevelBpe.of(backend)
    text = "a<|x|><|y|>b<|x|>c<|y|>"
    assert fast is not None
    assert fast.encode([text]) == [backend.encode(text, add_special_tokens=False).ids]


def test_an_engine_that_sees_a_character_otherwise() -> None:
    """An expression that takes `é` for no letter: texts with it take the way round."""
    encoding = made()._encoding
    blind = encoding._pat_str.replace(r"\p{L}+", r"[^\P{L}é]+")
    odd = byte_level_bpe.tiktoken.Encoding(
        "odd", pat_str=blind, mergeable_ranks=encoding._mergeable_ranks, special_tokens={}
    )
    found = ByteLevelBpe(BACKEND, odd).encode(["café", "tea"])
    assert found == [None, whole(["tea"])[0]]


def test_parts_are_forgotten_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_level_bpe, "MOST_PARTS", 2)
    fast = made()
    for text in ("one", "two", "three", "one", "two<|im_end|>four"):
        assert fast.encode([text]) == whole([text])


def changed(model: dict[str, Any]) -> tokenizers.Tokenizer:
    content = orjson.loads(BACKEND.to_str())
    content["model"] |= model
    return tokenizers.Tokenizer.from_str(orjson.dumps(content).decode())


def test_ids_that_are_no_ranks_are_left_alone() -> None:
    """Merges in another order than their results' ids: tiktoken would merge other pairs."""
    merges = orjson.loads(BACKEND.to_str())["model"]["merges"]
    assert ByteLevelBpe.of(changed({"merges": merges})) is not None
    assert ByteLevelBpe.of(changed({"merges": [merges[1], merges[0], *merges[2:]]})) is None


def test_tokens_that_no_merge_makes_are_left_alone() -> None:
    """tiktoken takes a word that is a token at once; the tokenizer only with `ignore_merges`."""
    merges = orjson.loads(BACKEND.to_str())["model"]["merges"]
    assert ByteLevelBpe.of(changed({"merges": merges[:-1]})) is None
    assert ByteLevelBpe.of(changed({"merges": merges[:-1], "ignore_merges": True})) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "normalizer", tokenizers.normalizers.Lowercase()),
        lambda b: setattr(b, "pre_tokenizer", tokenizers.pre_tokenizers.ByteLevel()),
        lambda b: setattr(b, "pre_tokenizer", tokenizers.pre_tokenizers.Whitespace()),
        lambda b: setattr(b.model, "dropout", 0.1),
        lambda b: b.add_special_tokens([tokenizers.AddedToken("<|x|>", lstrip=True)]),
    ],
)
def test_other_kinds_of_tokenizers_are_left_alone(change: Any) -> None:
    backend = tokenizers.Tokenizer.from_str(BACKEND.to_str())
    assert ByteLevelBpe.of(backend) is not None
    change(backend)
    assert ByteLevelBpe.of(backend) is None


def test_gpt2s_own_expression() -> None:
    """ByteLevel alone cuts words by itself."""
    backend = tokenizers.Tokenizer.from_str(BACKEND.to_str())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = ByteLevelBpe.of(backend)
    assert fast is not None and byte_level_bpe.newline_ends_word(backend)
    text = "It's 1234 o'clock,  isn't\n\n it? 你好！"
    assert fast.encode([text]) == [backend.encode(text, add_special_tokens=False).ids]


def chats(num_chats: int, file: str = "a.jsonl") -> list[Conversation]:
    return [
        Conversation(
            tuple(Message(Role(m["role"]), m["content"]) for m in row["messages"]), None, file, line
        )
        for line, row in enumerate(rows(num_chats), 1)
    ]


def encoder(monkeypatch: pytest.MonkeyPatch, num_plain: int) -> masks.Encoder:
    monkeypatch.setattr("lorawright.masks.encode.BATCH", 4)
    found = masks.Encoder(TOKENIZER, DataSettings())
    found._sequences._ids = id_reader.IdReader(TOKENIZER, num_plain)
    return found


def test_many_rows_are_read_by_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = list(encoder(monkeypatch, 1000).run(chats(30)))
    made = encoder(monkeypatch, 8)
    assert list(made.run(chats(30))) == plain
    assert made._sequences._ids._tokenizer.bpe is not None
    assert all(isinstance(one, EncodedChat) for one in plain)


class Wrong(ByteLevelBpe):
    """Right on the probe text, wrong on whatever holds a certain word."""

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        found = super().encode(texts)
        return [[1] if "books" in text else ids for text, ids in zip(texts, found, strict=True)]


def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made()
    monkeypatch.setattr(ByteLevelBpe, "of", lambda backend: Wrong(backend, one._encoding))


def said(text: str, file: str, line: int = 1) -> Conversation:
    return Conversation(
        (Message(Role.USER, text), Message(Role.ASSISTANT, "Yes.")), None, file, line
    )


def test_other_ids_in_the_first_rows_leave_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing by tiktoken was handed on yet: the run goes on without it."""
    wrong(monkeypatch)
    plain = list(encoder(monkeypatch, 1000).run([said("old books", "a.jsonl")]))
    assert list(encoder(monkeypatch, 0).run([said("old books", "a.jsonl")])) == plain


def test_other_ids_later_are_an_error_with_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of every file are compared."""
    wrong(monkeypatch)
    rows = [*(said("maps", "a.jsonl", line) for line in range(1, 9)), said("books", "b.jsonl", 9)]
    with pytest.raises(TemplateError, match=r"other ids than its tokenizer .* b\.jsonl:9"):
        list(encoder(monkeypatch, 0).run(rows))
