"""Which tokens of a chat are trained, for the eye: a terminal line or an HTML page."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lorawright.chat import ChatTokenizer
from lorawright.i18n import language, translate
from lorawright.types import EncodedChat

MOST_TOKENS = 4  # a character is at most four bytes


@dataclass(frozen=True, slots=True)
class Glyph:
    """The fewest tokens that make whole characters; one token nearly always.

    An emoji or a rare Chinese character may need three tokens that are no text by themselves.
    """

    ids: tuple[int, ...]
    text: str
    trained: bool


def glyphs(tokenizer: ChatTokenizer, chat: EncodedChat) -> Iterator[Glyph]:
    """The chat as glyphs, in order; a glyph never mixes trained and untrained tokens."""
    flags = chat.trained_flags()
    held: list[int] = []
    for position, token in enumerate(chat.ids):
        held.append(token)
        text = tokenizer.decode(held)
        next_differs = position + 1 < len(flags) and flags[position + 1] != flags[position]
        if not next_differs and _is_part(tokenizer, held, text):
            continue
        yield Glyph(tuple(held), text, bool(flags[position]))
        held = []
    if held:
        yield Glyph(tuple(held), tokenizer.decode(held), bool(flags[-1]))


def _is_part(tokenizer: ChatTokenizer, ids: list[int], text: str) -> bool:
    """Whether ids stop inside a character; a replacement character may also be what is meant."""
    return text.endswith("\ufffd") and len(ids) < MOST_TOKENS and tokenizer.encode([text])[0] != ids


def runs(tokenizer: ChatTokenizer, chat: EncodedChat) -> Iterator[tuple[str, bool]]:
    """Longest stretches of equal treatment: (text, trained)."""
    edges = [0, *(edge for span in chat.spans for edge in span), len(chat.ids)]
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        if start < end:
            yield tokenizer.decode(chat.ids[start:end]), number % 2 == 1


def page(tokenizer: ChatTokenizer, chats: Iterable[EncodedChat], title: str) -> str:
    """A self-contained HTML page of chats, token by token."""
    rows = "\n".join(_row(tokenizer, chat) for chat in chats)
    styled = PAGE.replace("{{tokens}}", TOKEN_CSS, 1).replace("{{language}}", language(), 1)
    styled = styled.replace("{{legend}}", translate(LEGEND), 1)
    return styled.replace("{{rows}}", rows, 1).replace("{{title}}", html.escape(title), 2)


def _row(tokenizer: ChatTokenizer, chat: EncodedChat) -> str:
    tokens = spans(glyphs(tokenizer, chat))
    head = (
        f"{html.escape(chat.file)}:{chat.line} · {len(chat.ids)} tokens, "
        f"{chat.num_trained_tokens} trained"
    )
    return f"<section><h2>{translate(head)}</h2><p>{tokens}</p></section>"


def spans(shown: Iterable[Glyph]) -> str:
    """Glyphs as HTML, escaped; `TOKEN_CSS` colours them."""
    return "".join(_token(glyph) for glyph in shown)


def _token(glyph: Glyph) -> str:
    shown = html.escape(glyph.text).replace("\n", "↵\n")
    kind = "t" if glyph.trained else "u"
    ids = " ".join(map(str, glyph.ids))
    return f'<span class="{kind}" title="{ids}">{shown}</span>'


# The look of tokens, in whatever page; it wants the colours faint, trained and edge.
TOKEN_CSS = """.t, .u { border-radius: 3px; padding: 2px 0; }
.t:hover, .u:hover { outline: 1px solid var(--faint); }
.u { color: var(--faint); }
.t { background: var(--trained); box-shadow: inset 0 -2px 0 var(--edge); }
"""

LEGEND = (
    'Tokens that are <span class="t">trained</span> and tokens that are only '
    '<span class="u">read</span>. Hover over a token for its id; ↵ is a newline.'
)
PAGE = """<!doctype html>
<html lang="{{language}}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{title}}</title>
<style>
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fbfbfa; --faint: #6b7280;
  --line: #e2e2df; --trained: #d3f2dc; --edge: #2f9e5a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #16181b; --faint: #8b929c;
  --line: #2b2f34; --trained: #173d27; --edge: #4cc27a; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: .85rem; color: var(--faint); font-weight: 500; }
p { white-space: pre-wrap; font: 13px/1.9 ui-monospace, monospace; overflow-wrap: anywhere;
  border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: .3rem 0 1.6rem; }
{{tokens}}</style>
<h1>{{title}}</h1>
<div>{{legend}}</div>
{{rows}}
</html>
"""
