"""Which tokens of a chat are trained, for the eye: texts of tokens, and runs of them."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lorawright.masks import ChatTokenizer
from lorawright.types import EncodedChat

MOST_TOKENS = 4  # a character is at most four bytes


@dataclass(frozen=True, slots=True)
class TokenText:
    """The fewest tokens that make whole characters; one token nearly always.

    An emoji or a rare Chinese character may need three tokens that are no text by themselves.
    """

    ids: tuple[int, ...]
    text: str
    trained: bool


def token_texts(tokenizer: ChatTokenizer, chat: EncodedChat) -> Iterator[TokenText]:
    """The chat as texts of tokens, in order; one text never mixes trained and untrained tokens."""
    flags = chat.trained_flags()
    held: list[int] = []
    for position, token in enumerate(chat.ids):
        held.append(token)
        text = tokenizer.decode(held)
        next_differs = position + 1 < len(flags) and flags[position + 1] != flags[position]
        if not next_differs and _is_part(tokenizer, held, text):
            continue
        yield TokenText(tuple(held), text, bool(flags[position]))
        held = []
    if held:
        yield TokenText(tuple(held), tokenizer.decode(held), bool(flags[-1]))


def _is_part(tokenizer: ChatTokenizer, ids: list[int], text: str) -> bool:
    """Whether ids stop inside a character; a replacement character may also be what is meant."""
    return text.endswith("\ufffd") and len(ids) < MOST_TOKENS and tokenizer.encode([text])[0] != ids


def runs(tokenizer: ChatTokenizer, chat: EncodedChat) -> Iterator[tuple[str, bool]]:
    """Longest stretches of equal treatment: (text, trained)."""
    edges = [0, *(edge for span in chat.spans for edge in span), len(chat.ids)]
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        if start < end:
            yield tokenizer.decode(chat.ids[start:end]), number % 2 == 1


def spans(shown: Iterable[TokenText]) -> str:
    """Glyphs as HTML, escaped; `TOKEN_CSS` colours them."""
    return "".join(_token(one) for one in shown)


def _token(one: TokenText) -> str:
    shown = html.escape(one.text).replace("\n", "↵\n")
    kind = "t" if one.trained else "u"
    ids = " ".join(map(str, one.ids))
    return f'<span class="{kind}" title="{ids}">{shown}</span>'


# The look of tokens, in whatever page; it wants the colours faint, trained and edge.
TOKEN_CSS = """.t, .u { border-radius: 3px; padding: 2px 0; }
.t:hover, .u:hover { outline: 1px solid var(--faint); }
.u { color: var(--faint); }
.t { background: var(--trained); box-shadow: inset 0 -2px 0 var(--edge); }
"""
