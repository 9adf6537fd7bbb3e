"""Ids of texts word by word, each word given to the tokenizer once.

    "Hello, world!<|im_end|>"  →  "Hello" | "," | " world" | "!"  |  <|im_end|>
                                   9707     11    1879       0       151645

A tokenizer of this kind (byte-level BPE: GPT-2, Llama 3, Qwen) takes control tokens out, cuts the
rest into words by a regular expression, and then each word into tokens by itself. So the ids of a
text are those of its words. The tokenizer (Rust) gives the ids of every word; we only cut, with
its own expression, and remember: 65 us a chat of 800 characters instead of 280.

That the cut is the tokenizer's is made sure of character by character. Two engines that run one
expression can differ only in which class a character is of (letter, number, space, other). Every
character that appears is put into a text that tells the classes apart, and both engines must cut it
alike; a text with a character that fails, or that is not in normal form, goes to the tokenizer as
a whole.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Self

import regex  # type: ignore[import-untyped]
import tokenizers

# The expressions of GPT-4's family: only for these has the argument above been made.
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
KNOWN_PATTERNS = tuple(
    CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + numbers
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for numbers in (r"\p{N}", r"\p{N}{1,3}")
)
PROBES = "aXa X1XX1 X\nX\r\nX  a'X'Xe'rX'vX'lX'lXX1111XaX \n X  1"
MOST_WORDS = 500_000  # remembered; then all are forgotten. 100 MB


class WordEncoder:
    """The words of one tokenizer; `of` says whether it is of the kind."""

    def __init__(self, backend: tokenizers.Tokenizer, pattern: str) -> None:
        self._backend = backend
        self._words: re.Pattern[str] = regex.compile(pattern)
        added = backend.get_added_tokens_decoder()
        self._controls = frozenset(token.content for token in added.values())
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._ids: dict[str, Sequence[int]] = {}
        self._good: set[str] = set()
        self._bad: set[str] = set()
        self._ascii_is_good = self._all_good(map(chr, range(128)))

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> Self | None:
        """None: not a tokenizer whose words are independent, or not known to be one."""
        pattern = _pattern(backend)
        return None if pattern is None or not _words_are_alone(backend) else cls(backend, pattern)

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Ids of each text; None where it has to go to the tokenizer as a whole.

        A part that texts share, such as a system message, is done once.
        """
        parts = [self._control.split(text) for text in texts]
        cut = {part: self._cut(part) for part in dict.fromkeys(chain.from_iterable(parts))}
        self._learn(set(chain.from_iterable(words for words in cut.values() if words is not None)))
        find = self._ids.__getitem__
        ids = {
            part: None if words is None else list(chain.from_iterable(map(find, words)))
            for part, words in cut.items()
        }
        return [_joined([ids[part] for part in parts_of_text]) for parts_of_text in parts]

    def _cut(self, part: str) -> list[str] | None:
        """The words of what stands between two control tokens, or one control token itself."""
        if part in self._controls:
            return [part]
        is_plain = self._ascii_is_good and part.isascii()
        if not is_plain and not unicodedata.is_normalized("NFC", part):
            return None
        return self._words.findall(part) if is_plain or self._all_good(set(part)) else None

    def _learn(self, words: set[str]) -> None:
        if len(self._ids) > MOST_WORDS:
            self._ids.clear()
        new = [word for word in words if word not in self._ids]
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        self._ids.update((w, e.ids) for w, e in zip(new, encodings, strict=True))

    def _all_good(self, characters: Iterable[str]) -> bool:
        """Whether both engines see these characters alike; the answer is remembered."""
        new = set(characters) - self._good
        if not new:
            return True
        if not new.isdisjoint(self._bad):
            return False
        bad = {character for character in new if not self._seen_alike(character)}
        self._bad |= bad
        self._good |= new - bad
        return not bad

    def _seen_alike(self, character: str) -> bool:
        if unicodedata.category(character) in ("Cn", "Cs"):  # newer than our normal forms; half
            return False
        probe = PROBES.replace("X", character)
        if not unicodedata.is_normalized("NFC", probe):
            return False
        pieces = self._backend.pre_tokenizer.pre_tokenize_str(probe)
        theirs = [probe[slice(*edges)] for _, edges in pieces]
        return theirs == self._words.findall(probe)


def _joined(parts: list[list[int] | None]) -> list[int] | None:
    ids: list[int] = []
    for part in parts:
        if part is None:
            return None
        ids += part
    return ids


def _pattern(backend: tokenizers.Tokenizer) -> str | None:
    """The expression that cuts words, where nothing else does and it is a known one."""
    if backend.pre_tokenizer is None:
        return None
    found: Any = json.loads(backend.pre_tokenizer.__getstate__())
    if found.get("type") != "Sequence" or len(found["pretokenizers"]) != 2:
        return None
    split, byte_level = found["pretokenizers"]
    is_known = (
        split["type"] == "Split"
        and split["behavior"] == "Isolated"
        and not split["invert"]
        and split["pattern"].get("Regex") in KNOWN_PATTERNS
        and byte_level["type"] == "ByteLevel"
        and not byte_level["add_prefix_space"]
        and not byte_level["use_regex"]
    )
    return str(split["pattern"]["Regex"]) if is_known else None


def _words_are_alone(backend: tokenizers.Tokenizer) -> bool:
    """No step before, in or behind the model looks beyond a word."""
    model, normalizer, behind = backend.model, backend.normalizer, backend.post_processor
    added = backend.get_added_tokens_decoder().values()
    return (
        isinstance(model, tokenizers.models.BPE)
        and not model.dropout
        and (normalizer is None or isinstance(normalizer, tokenizers.normalizers.NFC))
        and (behind is None or isinstance(behind, tokenizers.processors.ByteLevel))
        and bool(added)
        and not any(t.normalized or t.lstrip or t.rstrip or t.single_word for t in added)
    )
