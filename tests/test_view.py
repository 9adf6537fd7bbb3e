"""Masks for the eye: nothing lost, nothing mixed, nothing executed."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright import chat, hub, view
from lorawright.config.schema import DataSettings
from lorawright.types import Conversation, EncodedChat, Message, Role

TOKENIZER = chat.load(hub.tokenizer_folder("tiny"), "tiny")
PIECES = ["Hi", "你好", "龘", "😀", "👩‍👩‍👧", "\n", " ", "\ufffd", "<b>&amp;", '"', "\x00"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=6).map("".join)
quick = settings(max_examples=60, derandomize=True, deadline=None)


def encode(question: str, *answers: str, file: str = "rows.jsonl") -> EncodedChat:
    turns = [Message(Role.USER, question)]
    for said in answers:
        turns += [Message(Role.ASSISTANT, said), Message(Role.USER, question)]
    row = Conversation(tuple(turns), None, file, 3)
    encoder = chat.Encoder(TOKENIZER, DataSettings(special_tokens_in_text="escape"))
    (result,) = encoder.run([row])
    assert isinstance(result, EncodedChat)
    return result


class Reader(HTMLParser):
    """Collects the tags of a page, its heads, and its tokens as [class, ids, text]."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.heads: list[str] = []
        self.tokens: list[list[str]] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value or "" for name, value in attrs}
        self.inside = "token" if "title" in given else tag
        if self.inside == "token":
            self.tokens.append([given["class"], given["title"], ""])

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "token":
            self.tokens[-1][2] += data
        elif self.inside == "h2":
            self.heads.append(data)


@quick
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_glyphs_are_the_ids_in_order(question: str, answers: list[str]) -> None:
    made = encode(question, *answers)
    glyphs = list(view.glyphs(TOKENIZER, made))
    assert tuple(token for glyph in glyphs for token in glyph.ids) == made.ids
    flags = [glyph.trained for glyph in glyphs for _ in glyph.ids]
    assert flags == [bool(flag) for flag in made.trained_flags()]
    assert "".join(glyph.text for glyph in glyphs) == TOKENIZER.decode(made.ids)


@pytest.mark.parametrize("said", ["😀", "龘", "𠮷", "🇫🇷", "你"])
def test_characters_of_many_tokens_are_grouped(said: str) -> None:
    glyphs = list(view.glyphs(TOKENIZER, encode("Hi", f"a{said}b{said}")))
    trained = "".join(glyph.text for glyph in glyphs if glyph.trained)
    assert trained == f"a{said}b{said}<|im_end|>"
    assert not any("\ufffd" in glyph.text for glyph in glyphs)
    assert sum(glyph.text == said[0] for glyph in glyphs) == 2


def test_a_glyph_is_as_small_as_whole_characters_allow() -> None:
    for glyph in view.glyphs(TOKENIZER, encode("Hi 你好", "Hello 😀 there")):
        assert len(glyph.ids) == 1 or len(glyph.text) == 1


def test_a_replacement_character_in_the_text_is_a_glyph_of_its_own() -> None:
    glyphs = list(view.glyphs(TOKENIZER, encode("Hi", "x\ufffdy and more words")))
    assert "\ufffd" in [glyph.text for glyph in glyphs]
    assert "y" in [glyph.text for glyph in glyphs]


def test_bytes_that_are_no_character_are_shown_and_not_mixed() -> None:
    """An emoji that is cut between its tokens: each side stays on its side."""
    ids = tuple(TOKENIZER.encode(["😀"])[0])
    assert len(ids) > 2
    made = EncodedChat((*ids[:2], *ids[2:], *ids[:1]), ((2, len(ids)),), "rows.jsonl", 1)
    glyphs = list(view.glyphs(TOKENIZER, made))
    assert tuple(token for glyph in glyphs for token in glyph.ids) == made.ids
    flags = [int(glyph.trained) for glyph in glyphs for _ in glyph.ids]
    assert flags == made.trained_flags()


@quick
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_runs_alternate_and_are_the_text(question: str, answers: list[str]) -> None:
    made = encode(question, *answers)
    runs = list(view.runs(TOKENIZER, made))
    assert "".join(text for text, _ in runs) == TOKENIZER.decode(made.ids)
    assert [trained for _, trained in runs] == [n % 2 == 1 for n in range(len(runs))]
    assert sum(trained for _, trained in runs) == len(answers)
    for text, trained in runs:
        assert not trained or text.endswith("<|im_end|>")


def test_runs_of_edges() -> None:
    made = encode("Hi", "Hello!")
    whole = replace(made, spans=((1, len(made.ids)),))
    assert [trained for _, trained in view.runs(TOKENIZER, whole)] == [False, True]
    assert [t for _, t in view.runs(TOKENIZER, replace(made, spans=()))] == [False]


def test_page_escapes_text_title_and_file() -> None:
    evil = "<tool_call><script>alert('x')</script>&<img src=x onerror=y>\"'"
    made = encode(evil, evil, file="<b>a</b>.jsonl")
    html = view.page(TOKENIZER, [made], f"<i>{evil}")
    expected = Reader(view.page(TOKENIZER, [encode("Hi", "Hello")], "title"))
    assert Reader(html).tags == expected.tags
    assert not any(tag in html for tag in ("<tool_call", "<script", "<img", "<b>", "<i>"))


@quick
@given(texts, texts)
def test_page_holds_every_token(question: str, said: str) -> None:
    made = encode(question, said)
    page = Reader(view.page(TOKENIZER, [made], "title"))
    ids = [int(token) for _, title, _ in page.tokens for token in title.split()]
    assert tuple(ids) == made.ids
    kinds = [kind for kind, title, _ in page.tokens for _ in title.split()]
    assert kinds == ["t" if flag else "u" for flag in made.trained_flags()]


def test_page_shows_the_text_of_every_token() -> None:
    made = encode("你好 😀\n{{rows}} {{title}}", "  a\n\n&lt;b <tool_call>  ")
    page = Reader(view.page(TOKENIZER, [made], "title"))
    shown = "".join(text for _, _, text in page.tokens)
    assert shown.replace("↵\n", "\n") == TOKENIZER.decode(made.ids)


def test_page_counts_and_names_each_row() -> None:
    rows = [encode("Hi", "Hello!"), encode("Hi", "Bye!", "Well.")]
    page = Reader(view.page(TOKENIZER, rows, "title"))
    for head, row in itertools.zip_longest(page.heads, rows):
        assert re.fullmatch(
            rf"rows\.jsonl:3 · {len(row.ids)} tokens, {row.num_trained_tokens} trained", head
        )


def test_page_of_no_rows() -> None:
    assert Reader(view.page(TOKENIZER, [], "title")).tokens == []
