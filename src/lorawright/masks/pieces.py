"""The rendered text in pieces, and each piece's ids.

    "…assistant\\n" | "Hello!<|im_end|>" | "\\n<|im_start|>user…"
     untrained        trained             untrained

Where the tokenizer reads a piece as it reads it inside a text (byte-level vocabularies), pieces are
read one by one, so that the ids up to an answer are those that inference sees, also where an answer
starts with a newline. Where it puts something before every text (`▁`, a space: SentencePiece's
dummy prefix), they are differences: the text up to a piece's end less the text up to its start.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lorawright.masks import special_tokens
from lorawright.masks.answers import TextView
from lorawright.masks.derive import UnprovenMask
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.types import Span


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of rendered text with ids of its own.

    `plain`: control tokens in it are text. `trained`: its tokens are. `is_answer`: it is an answer
    that is trained here, or a part of one.
    """

    text: str
    plain: bool
    trained: bool
    is_answer: bool


def layout(view: TextView) -> list[Piece]:
    """The text cut at the view's cuts, and those pieces at forged tokens."""
    edges = [0, *view.cuts, len(view.text)]
    trained, answers = dict(view.trained), dict(view.answers)
    pieces: list[Piece] = []
    trained_until = answer_until = 0
    for start, end in pairwise(edges):
        trained_until = max(trained_until, trained.get(start, 0))
        answer_until = max(answer_until, answers.get(start, 0))
        pieces += [
            Piece(text, plain, start < trained_until, start < answer_until)
            for text, plain in special_tokens.split(view.text[start:end])
        ]
    return pieces


def spans(
    pieces: Sequence[Piece], ids: Sequence[Sequence[int]], *, answers: bool = False
) -> list[Span]:
    """Token ranges of the trained pieces; position 0 has no prompt and is never trained.

    Args:
        pieces: Of a sequence.
        ids: Of each.
        answers: Those of the answers instead, reasoning that is only read included.
    """
    found: list[Span] = []
    position = 0
    for piece, ids_of_piece in zip(pieces, ids, strict=True):
        end = position + len(ids_of_piece)
        if (piece.is_answer if answers else piece.trained) and end > max(position, 1):
            if found and found[-1][1] == position:
                found[-1] = (found[-1][0], end)
            else:
                found.append((max(position, 1), end))
        position = end
    return found


def encode(
    tokenizer: ChatTokenizer, layouts: Sequence[Sequence[Piece]]
) -> list[list[list[int]] | UnprovenMask]:
    """The ids of each layout's pieces, or why they cannot be told."""
    if not tokenizer.reads_pieces_alone:
        return [_by_difference(tokenizer, pieces) for pieces in layouts]
    texts = [piece.text for pieces in layouts for piece in pieces if not piece.plain]
    plain = [piece.text for pieces in layouts for piece in pieces if piece.plain]
    ids = iter(tokenizer.encode(texts))
    plain_ids = iter(tokenizer.encode_plain(plain))
    return [[next(plain_ids if piece.plain else ids) for piece in pieces] for pieces in layouts]


def _by_difference(
    tokenizer: ChatTokenizer, pieces: Sequence[Piece]
) -> list[list[int]] | UnprovenMask:
    if any(piece.plain for piece in pieces):
        return UnprovenMask("messages", FORGED, FORGED_HINT)
    texts = [""]
    for piece in pieces:
        texts.append(texts[-1] + piece.text)
    *beginnings, whole = tokenizer.encode(texts[1:]) or [[]]
    edges = [0]
    for piece, beginning in zip(pieces, beginnings, strict=False):
        if whole[: len(beginning)] != beginning or len(beginning) < edges[-1]:
            return UnprovenMask(
                "messages",
                f"its tokenizer joins what stands on both sides of {piece.text[-20:]!r}: no ids "
                "are the answer's alone",
            )
        edges.append(len(beginning))
    edges.append(len(whole))
    return [whole[start:end] for start, end in pairwise(edges)]


def prompts(
    tokenizer: ChatTokenizer, pieces: Sequence[Piece], *, always: bool
) -> list[tuple[int, list[Piece]]]:
    """The prompts whose ids may not be those that the pieces before an answer have.

    A cut before an earlier answer stays in what later answers see. It shows where the header's last
    characters and the answer's first would be one token: an answer that starts with white space.

    Args:
        tokenizer: The model's.
        pieces: Of a sequence.
        always: Whether every answer's prompt is wanted.

    Returns:
        Number of the answer, and its prompt in pieces cut at forged tokens only.
    """
    starts = [
        number
        for number, piece in enumerate(pieces)
        if piece.is_answer and not (number and pieces[number - 1].is_answer)
    ]
    if len(starts) < 2 or not tokenizer.reads_pieces_alone:  # by difference: prompts' own ids
        return []
    if not (always or any(_may_join(tokenizer, pieces, number) for number in starts[:-1])):
        return []
    return [(answer, _joined(pieces[:number])) for answer, number in enumerate(starts) if answer]


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces with nothing but forged tokens between them as one."""
    groups = itertools.groupby(pieces, key=lambda piece: piece.plain)
    return [
        Piece("".join(piece.text for piece in group), plain, trained=False, is_answer=False)
        for plain, group in groups
    ]


def reads_as_one(
    tokenizer: ChatTokenizer, pieces: Sequence[Piece], ids: Sequence[Sequence[int]]
) -> bool:
    """Whether answers whose reasoning is only read have the ids that a model generates."""
    if all(piece.trained for piece in pieces if piece.is_answer):
        return True
    groups = itertools.groupby(zip(pieces, ids, strict=True), key=lambda pair: pair[0].is_answer)
    for is_answer, group in groups:
        pairs = list(group)
        if is_answer and not any(piece.plain for piece, _ in pairs):
            (whole,) = encode(tokenizer, [_joined([piece for piece, _ in pairs])])
            cut = [token for _, of_piece in pairs for token in of_piece]
            if isinstance(whole, list) and whole[0] != cut:
                return False
    return True


def _may_join(tokenizer: ChatTokenizer, pieces: Sequence[Piece], number: int) -> bool:
    """Whether one word may hold the end of what stands before a piece, and its beginning."""
    if not tokenizer.newline_ends_word or not number:
        return True
    return not pieces[number - 1].text.endswith("\n") or pieces[number].text[:1].isspace()


FORGED = (
    "spells a control token, which this model's tokenizer cannot read as plain text inside a chat"
)
FORGED_HINT = "take the token out of the text; `special_tokens_in_text: escape` cannot help here"
