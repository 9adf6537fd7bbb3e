"""Ids put together from words are the tokenizer's own, and what may not be so goes to it whole."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright import hub, masks
from lorawright.errors import TemplateError
from lorawright.masks import words as own
from lorawright.masks.words import WordEncoder

TOKENIZER = masks.load(hub.tokenizer_folder("tiny"), "tiny")
BACKEND = TOKENIZER.backend
PATTERN = own.KNOWN_PATTERNS[0]
PARTS = (
    "Hi", " you", "'s", "'LL", "'\u017f", "\u212a", "ß", "123", "½", "²", "你好", "，", " ", "  ",
    "\n", "\r\n", "\n \n", "\t", "\u00a0", "\u3000", "\u0085", "\u2028", "\x1c", "\ufeff", "❤️",
    "👩\u200d👩", "e\u0301", "é", "\u0301", "각", "\u1100", "\u1161", "ا", "ﷺ", "…", "--", "_",
    "<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<tool_call>",
)  # fmt: skip


def whole(texts: list[str]) -> list[list[int]]:
    found = BACKEND.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]


def words() -> WordEncoder:
    encoder = WordEncoder.of(BACKEND)
    assert encoder is not None
    return encoder


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=12).map("".join))
def test_any_text_has_the_tokenizers_ids(text: str) -> None:
    assert TOKENIZER.encode([text]) == whole([text])


def test_random_texts_of_characters_that_pass() -> None:
    """Most characters pass, and texts of them do not take the way round."""
    encoder, drawn = words(), random.Random(1)
    common = [chr(code) for code in (*range(0x530), *range(0x3000, 0x3100), *range(0x4E00, 0x5200))]
    passing = [character for character in common if encoder.encode([character]) != [None]]
    assert len(passing) > 0.85 * len(common)
    texts = [
        "".join(drawn.choice([drawn.choice(passing), *" \n'sa1!"]) for _ in range(40))
        for _ in range(4000)
    ]
    found = encoder.encode(texts)
    assert all(a is None or a == b for a, b in zip(found, whole(texts), strict=True))
    assert sum(ids is None for ids in found) < 100, "only what is not in normal form"


@pytest.mark.parametrize("text", ["e\u0301", "a\u0378", "\u1100\u1161"])
def test_what_is_not_certain_goes_whole(text: str) -> None:
    """Not in normal form, or not assigned in the tables that say what normal form is."""
    assert words().encode([text, "fine"]) == [None, whole(["fine"])[0]]
    assert TOKENIZER.encode([text]) == whole([text])


def test_an_engine_that_sees_a_character_otherwise() -> None:
    """An expression that takes `é` for no letter: texts with it take the way round."""
    blind = PATTERN.replace(r"\p{L}+", r"[^\P{L}é]+")
    odd = WordEncoder(BACKEND, blind)
    assert odd.encode(["café", "tea"]) == [None, whole(["tea"])[0]]


def test_words_are_forgotten_and_learned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "MOST_WORDS", 2)
    encoder = words()
    for text in ("one two three four", "five six seven", "one two"):
        assert encoder.encode([text]) == whole([text])


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
def test_other_kinds_of_tokenizers_are_left_alone(change: object) -> None:
    backend = tokenizers.Tokenizer.from_str(BACKEND.to_str())
    assert WordEncoder.of(backend) is not None
    change(backend)  # type: ignore[operator]
    assert WordEncoder.of(backend) is None


def test_a_text_of_every_batch_is_compared() -> None:
    class Wrong(WordEncoder):
        def encode(self, texts: object) -> list[list[int] | None]:
            return [[1, 2, 3]]

    wrong = replace(TOKENIZER, words=Wrong(BACKEND, PATTERN))
    with pytest.raises(TemplateError, match="gives other ids than at once for 'Hi'"):
        wrong.encode(["Hi"])


def test_without_words_the_ids_are_the_same() -> None:
    texts = ["Hello, world!<|im_end|>\n", "", "你好 123"]
    assert replace(TOKENIZER, words=None).encode(texts) == TOKENIZER.encode(texts)
