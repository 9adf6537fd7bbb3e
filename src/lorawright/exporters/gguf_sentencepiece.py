"""SentencePiece's BPE as `tokenizer.json` holds it → scores, and the ids that llama.cpp makes.

    merges, in their order ──► a token's score: the sooner it is made, the higher

llama.cpp joins the two neighbours whose union is the token of the highest score, whatever their
merges say: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp. That is the same
where every way of making a token is a merge, and they follow each other; other vocabularies are
refused.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from gguf import TokenType

from lorawright.errors import ModelError
from lorawright.exporters import gguf_rules
from lorawright.exporters.gguf_families import CONVERTER_HINT

SPACE = "▁"
BYTES = [f"<0x{number:02X}>" for number in range(256)]
NO_SCORE = -1e6  # below every merge; float32 holds whole numbers to 1.6e7
UNNORMALIZED = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
STRIPPING_NAMES = ("phi-3", "phi3")


def is_one(content: Mapping[str, Any]) -> bool:
    """Whether unknown characters become bytes: no byte-level vocabulary has that."""
    return bool(content["model"].get("byte_fallback"))


def prefix(content: Mapping[str, Any], name: str) -> bool:
    """Whether a space is put before a text, and before what follows a control token.

    The scheme `first` puts one before the whole text only. llama.cpp has no such thing; chats begin
    with a control token, so that none is put there either: the proof reads whole chats.

    Raises:
        ModelError: Spaces are treated in a way that llama.cpp does not know.
    """
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    splitter = content.get("pre_tokenizer")
    match splitter:
        case {"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": scheme}:
            if not steps and scheme in ("never", "first"):
                return False
        case None | {"type": "Split", "pattern": {"String": " "}}:
            if steps == [UNNORMALIZED]:
                return False
            if steps == [{"type": "Prepend", "prepend": SPACE}, UNNORMALIZED]:
                return True
    raise ModelError(
        "its tokenizer treats spaces as llama.cpp does not",
        where=name,
        hint=CONVERTER_HINT,
    )


def scores(content: Mapping[str, Any], num_tokens: int, name: str) -> list[float]:
    """Of every id: minus the number of the first merge that makes it.

    Raises:
        ModelError: llama.cpp would join other tokens than these merges do.
    """
    model = content["model"]
    vocabulary: dict[str, int] = model["vocab"]
    numbers: dict[str, list[int]] = {}
    for number, (left, right) in enumerate(gguf_rules.merge_pairs(model)):
        numbers.setdefault(left + right, []).append(number)
    added = {token["content"] for token in content["added_tokens"]}
    ordinary = vocabulary.keys() - added - set(BYTES)
    if (
        model.get("ignore_merges")
        or not vocabulary.keys() >= set(BYTES)
        or not all(_agrees(text, numbers.get(text, []), vocabulary) for text in ordinary)
    ):
        raise ModelError(
            "its tokenizer does not merge as SentencePiece does",
            where=name,
            hint=CONVERTER_HINT,
        )
    found = [NO_SCORE] * num_tokens
    for text, its_numbers in numbers.items():
        found[vocabulary[text]] = -float(its_numbers[0])
    return found


def _agrees(text: str, numbers: list[int], vocabulary: Mapping[str, int]) -> bool:
    """Whether a token's merges are all ways of making it, one after another."""
    ways = sum(
        text[:middle] in vocabulary and text[middle:] in vocabulary
        for middle in range(1, len(text))
    )
    return ways == len(numbers) and (not numbers or numbers[-1] - numbers[0] + 1 == ways)


def kind(token: Mapping[str, Any], unknown: str | None) -> TokenType:
    """The type of an added token.

    Runs of spaces are ordinary ones: a user-defined token is printed as it is spelled.
    """
    if token["content"] == unknown:
        return TokenType.UNKNOWN
    if token["special"]:
        return TokenType.CONTROL
    return TokenType.NORMAL if SPACE in token["content"] else TokenType.USER_DEFINED


class Reader:
    """Text → ids as llama.cpp reads it, from nothing but a file's metadata."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        tokens = fields["tokenizer.ggml.tokens"]
        kinds = fields["tokenizer.ggml.token_type"]
        self._ids = {text: number for number, text in enumerate(tokens)}
        self._scores = fields["tokenizer.ggml.scores"]
        self._prefix = " " if fields["tokenizer.ggml.add_space_prefix"] else ""
        special = {TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN}
        texts = [text for text, its_kind in zip(tokens, kinds, strict=True) if its_kind in special]
        self._special = sorted(texts, key=lambda text: len(text.encode()), reverse=True)
        name = fields["general.name"].lower()
        self._strips = any(part in name for part in STRIPPING_NAMES)

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = []
        before = self._prefix
        for piece in self._pieces(text):
            if isinstance(piece, int):
                ids.append(piece)
                before = self._prefix
            else:
                ids += self._join((before + piece).replace(" ", SPACE))
                before = ""
        return ids

    def _pieces(self, text: str) -> list[str | int]:
        """Special tokens, the longest first wherever they stand, and the text between them."""
        pieces: list[str | int] = [text]
        for special in self._special:
            if special in text:
                pieces = [part for piece in pieces for part in self._cut(piece, special)]
        return [piece for piece in pieces if piece != ""]

    def _cut(self, piece: str | int, special: str) -> Iterator[str | int]:
        if isinstance(piece, int) or special not in piece:
            yield piece
            return
        strips = self._strips and special not in ("<unk>", "<s>", "<|endoftext|>")
        first, *rest = piece.split(special)
        yield first
        for part in rest:
            yield self._ids[special]
            yield part.lstrip(" \t\n\v\f\r") if strips else part

    def _join(self, text: str) -> list[int]:
        """The neighbours with the highest score become one, the first ones of equals."""
        symbols: list[str] = list(text)
        after = [*range(1, len(symbols)), -1]
        before = [*range(-1, len(symbols) - 1)]
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                union = symbols[left] + symbols[right]
                number = self._ids.get(union)
                if number is not None:
                    heapq.heappush(queue, (-self._scores[number], left, right, union))

        for left in range(len(symbols) - 1):
            offer(left, left + 1)
        while queue:
            _, left, right, union = heapq.heappop(queue)
            if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != union:
                continue
            symbols[left], symbols[right] = union, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [number for symbol in symbols if symbol for number in self._spell(symbol)]

    def _spell(self, symbol: str) -> list[int]:
        """A token's id, or those of its bytes."""
        if symbol in self._ids:
            return [self._ids[symbol]]
        return [self._ids[BYTES[byte]] for byte in symbol.encode()]
