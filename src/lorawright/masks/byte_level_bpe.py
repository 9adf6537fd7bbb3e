"""Byte-level BPE tokenizer → the same ids by tiktoken, several times as fast.

    "Hello, world!<|im_end|>"  →  "Hello, world!"  |  <|im_end|>
                                   tiktoken            added token: 151645

Tokenizers of this kind (GPT-4, Qwen, Llama 3, gpt-oss) take added tokens out, cut the rest into
words by one regular expression, and merge each word's bytes, the pair of lowest rank first.
tiktoken does the same from a table of ranks. It is used where a tokenizer's ranks are its merges in
order, nothing else looks beyond a word, and a fixed text has equal ids. Whoever encodes compares
rows as it goes (`masks.encode`); the tokenizer itself stays the reference.

Two engines that run one expression can differ in which class a character is of (letter, number,
space, other). Every character that is not ASCII is tried in a text that tells the classes apart; a
text with one that fails, or that is not in normal form C, goes to the tokenizer as a whole.

Sources: tiktoken's `CoreBPE` (src/lib.rs), GPT-2's table of bytes (openai/gpt-2, encoder.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any, Self

import orjson
import tiktoken
import tokenizers

LONGEST_PART = 100_000
"""Characters given to tiktoken at once: its expression overflows a stack at a million spaces."""

MOST_PARTS = 100_000
"""Texts between added tokens that are remembered (system messages, headers), then forgotten."""

LONGEST_REMEMBERED = 400  # characters; longer parts are rarely met again

GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own
)

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
NEWLINE_ENDS_WORD = {
    GPT2_PATTERN,
    *(
        CONTRACTIONS
        + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + numbers
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for numbers in (r"\p{N}", r"\p{N}{1,3}")
    ),
}
"""Expressions (of GPT-2, GPT-4, Qwen) that end a word at a newline which no white space follows."""

PROBES = "aXa X1XX1 X\nX\r\nX  a'X'Xe'rX'vX'lX'lXX1111XaX \n X  1"
PROBE_TEXT = (
    "The quick brown fox can't jump; it's 12,345.678 km.  Two  spaces,\ttabs\n\n\nand lines \r\n"
    'def f(x):\n    return {\'a\': [1, 2.5e-3], "b": None}  # ok?!\n<a href="x">&amp;</a> //x.y\n'
    "今天天气很好，我们去公园吧！第12课。ひらがな カタカナ 한국어 हिन्दी\n"
    "Ελληνικά Кириллица עברית العربية naïve café Ångström — “quotes” … ½ ² № €\n"
    "😀👩\u200d👩\u200d👧 ❤️ I'LL we've THEY'RE x'y don''t _snake_CaseHTTP2"
)


class ByteLevelBpe:
    """One tokenizer's texts between added tokens; `of` says whether it is of the kind."""

    def __init__(self, backend: tokenizers.Tokenizer, encoding: tiktoken.Encoding) -> None:
        self._backend = backend
        self._encoding = encoding
        added = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
        self._added_ids = {content: [token_id] for content, token_id in added.items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._remembered: dict[str, list[int] | None] = {}
        self._good: set[str] = set(map(chr, range(128)))
        self._bad: set[str] = set()

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> Self | None:
        """None: another kind of tokenizer, or tiktoken gives other ids for the probe text."""
        pattern, ranks = _pattern(backend), _ranks(backend)
        if pattern is None or ranks is None or not _nothing_else_changes_text(backend):
            return None
        try:
            encoding = tiktoken.Encoding(
                "tokenizer.json", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except ValueError:  # an expression that its engine does not take
            return None
        made = cls(backend, encoding)
        texts = [PROBE_TEXT, PROBES, *made._added_ids, f" {PROBE_TEXT} ".join(made._added_ids)]
        expected = backend.encode_batch_fast(texts, add_special_tokens=False)
        agrees = all(
            ids is None or ids == encoding.ids
            for ids, encoding in zip(made.encode(texts), expected, strict=True)
        )
        return made if agrees and made.encode(["a"]) != [None] else None

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Ids of each text; None where it has to go to the tokenizer as a whole."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> list[int] | None:
        parts = self._added.split(text)
        if len(parts) == 1:
            return self._part(text)
        found = list(map(self._part, parts))
        if None in found:
            return None
        return list(chain.from_iterable(found))  # type: ignore[arg-type] # None was looked for

    def _part(self, part: str) -> list[int] | None:
        """The ids of an added token, or of what stands between two of them."""
        if part in self._added_ids:
            return self._added_ids[part]
        if part in self._remembered:
            return self._remembered[part]
        found = self._encoding.encode_ordinary(part) if self._is_certain(part) else None
        if len(part) <= LONGEST_REMEMBERED:
            if len(self._remembered) >= MOST_PARTS:
                self._remembered.clear()
            self._remembered[part] = found
        return found

    def _is_certain(self, part: str) -> bool:
        if len(part) > LONGEST_PART:
            return False
        if part.isascii():
            return True
        return unicodedata.is_normalized("NFC", part) and self._all_good(part)

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
        theirs = self._backend.encode(probe, add_special_tokens=False).ids
        return bool(theirs == self._encoding.encode_ordinary(probe))


def newline_ends_word(backend: tokenizers.Tokenizer) -> bool:
    """Whether its words end at a newline that no white space follows; False: it is not known."""
    return _pattern(backend) in NEWLINE_ENDS_WORD


def _pattern(backend: tokenizers.Tokenizer) -> str | None:
    """The expression that cuts words, where nothing else does."""
    if backend.pre_tokenizer is None:
        return None
    found: Any = orjson.loads(backend.pre_tokenizer.__getstate__())
    parts = found["pretokenizers"] if found.get("type") == "Sequence" else [found]
    *before, byte_level = parts
    if byte_level["type"] != "ByteLevel" or byte_level["add_prefix_space"] or len(before) > 1:
        return None
    if not before:
        return GPT2_PATTERN if byte_level["use_regex"] else None
    (split,) = before
    is_plain = (
        split["type"] == "Split"
        and split["behavior"] == "Isolated"
        and not split["invert"]
        and not byte_level["use_regex"]
    )
    return split["pattern"].get("Regex") if is_plain else None


def _ranks(backend: tokenizers.Tokenizer) -> dict[bytes, int] | None:
    """Bytes of every token → its id, where ids are ranks: merges stand in the order they make."""
    if not isinstance(backend.model, tokenizers.models.BPE):
        return None
    model: Any = orjson.loads(backend.to_str())["model"]
    vocabulary, byte_of = model["vocab"], _byte_of()
    ids = [
        vocabulary.get(left + right)
        for left, right in (
            pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]
        )
    ]
    made = set(ids)
    if None in made or any(a > b for a, b in pairwise(ids)):
        return None
    added = set(backend.get_added_tokens_decoder())
    ranks = {}
    for token, number in vocabulary.items():
        if number in added:
            continue
        if len(token) > 1 and number not in made and not model.get("ignore_merges"):
            return None
        try:
            ranks[bytes([byte_of[character] for character in token])] = number
        except KeyError:  # no byte-level vocabulary
            return None
    has_all_bytes = all(bytes([value]) in ranks for value in range(256))
    return ranks if has_all_bytes else None


def _byte_of() -> dict[str, int]:
    """GPT-2's table: the character that stands for a byte in a byte-level vocabulary → the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


def _nothing_else_changes_text(backend: tokenizers.Tokenizer) -> bool:
    """No normal form but C, no dropout, and added tokens that take no text around them."""
    model, normalizer = backend.model, backend.normalizer
    added = backend.get_added_tokens_decoder().values()
    return (
        not model.dropout
        and not model.fuse_unk
        and (normalizer is None or isinstance(normalizer, tokenizers.normalizers.NFC))
        and bool(added)
        and not any(t.normalized or t.lstrip or t.rstrip or t.single_word for t in added)
    )
