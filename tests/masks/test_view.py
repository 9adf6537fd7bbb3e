"""Masks for the eye: nothing lost, nothing mixed, nothing executed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorawright import hub, masks
from lorawright.config.schema import DataSettings
from lorawright.masks import page as mask_page
from lorawright.masks import view
from lorawright.types import Conversation, EncodedChat, Message, Role

TOKENIZER = masks.load(hub.tokenizer_folder("tiny"), "tiny")
PIECES = ["Hi", "你好", "龘", "😀", "👩‍👩‍👧", "\n", " ", "\ufffd", "<b>&amp;", '"', "\x00"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=6).map("".join)
quick = settings(max_examples=60, derandomize=True, deadline=None)


def encode(question: str, *answers: str, file: str = "rows.jsonl") -> EncodedChat:
    turns = [Message(Role.USER, question)]
    for said in answers:
        turns += [Message(Role.ASSISTANT, said), Message(Role.USER, question)]
    row = Conversation(tuple(turns), None, file, 3)
    encoder = masks.Encoder(TOKENIZER, DataSettings(special_tokens_in_text="escape"))
    *_, result = encoder.run([row])  # behind remarks, where there are some
    assert isinstance(result, EncodedChat)
    return result


class Reader(HTMLParser):
    """Collects the tags of a page, and its rows as the script draws them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self.place = ""
        self.feed(page)
        data = json.loads(self.texts["data"])
        self.heads = [(data["files"][row["file"]], row) for row in data["rows"]]
        self.tokens = [
            (
                any(start <= at < end for start, end in row["spans"]),
                *data["glyphs"][glyph],
            )
            for row in data["rows"]
            for at, glyph in enumerate(row["glyphs"])
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.place = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self.place] = self.texts.get(self.place, "") + data


@quick
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_glyphs_are_the_ids_in_order(question: str, answers: list[str]) -> None:
    made = encode(question, *answers)
    glyphs = list(view.token_texts(TOKENIZER, made))
    assert tuple(token for glyph in glyphs for token in glyph.ids) == made.ids
    flags = [glyph.trained for glyph in glyphs for _ in glyph.ids]
    assert flags == [bool(flag) for flag in made.trained_flags()]
    assert "".join(glyph.text for glyph in glyphs) == TOKENIZER.decode(made.ids)


@pytest.mark.parametrize("said", ["😀", "龘", "𠮷", "🇫🇷", "你"])
def test_characters_of_many_tokens_are_grouped(said: str) -> None:
    glyphs = list(view.token_texts(TOKENIZER, encode("Hi", f"a{said}b{said}")))
    trained = "".join(glyph.text for glyph in glyphs if glyph.trained)
    assert trained == f"a{said}b{said}<|im_end|>"
    assert not any("\ufffd" in glyph.text for glyph in glyphs)
    assert sum(glyph.text == said[0] for glyph in glyphs) == 2


def test_a_glyph_is_as_small_as_whole_characters_allow() -> None:
    for glyph in view.token_texts(TOKENIZER, encode("Hi 你好", "Hello 😀 there")):
        assert len(glyph.ids) == 1 or len(glyph.text) == 1


def test_a_replacement_character_in_the_text_is_a_glyph_of_its_own() -> None:
    glyphs = list(view.token_texts(TOKENIZER, encode("Hi", "x\ufffdy and more words")))
    assert "\ufffd" in [glyph.text for glyph in glyphs]
    assert "y" in [glyph.text for glyph in glyphs]


def test_bytes_that_are_no_character_are_shown_and_not_mixed() -> None:
    """An emoji that is cut between its tokens: each side stays on its side."""
    ids = tuple(TOKENIZER.encode(["😀"])[0])
    assert len(ids) > 2
    made = EncodedChat((*ids[:2], *ids[2:], *ids[:1]), ((2, len(ids)),), "rows.jsonl", 1)
    glyphs = list(view.token_texts(TOKENIZER, made))
    assert tuple(token for glyph in glyphs for token in glyph.ids) == made.ids
    flags = [int(glyph.trained) for glyph in glyphs for _ in glyph.ids]
    assert flags == made.trained_flags()


@quick
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_runs_alternate_and_are_the_text(question: str, answers: list[str]) -> None:
    assume(not any(answer[:1].isspace() for answer in answers))  # else: several sequences
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
    evil = "</script><tool_call><script>alert('x')</script>&<img src=x onerror=y>\"'<!--"
    made = encode(evil, evil, file="<b>a</b>.jsonl")
    html = mask_page.page(TOKENIZER, [made], f"<i>{evil} {{{{data}}}}")
    expected = Reader(mask_page.page(TOKENIZER, [encode("Hi", "Hello")], "title"))
    assert Reader(html).tags == expected.tags
    assert not any(tag in html for tag in ("<tool_call", "<script>alert", "<img", "<b>", "<i>"))
    assert evil in "".join(text for _, text, _ in Reader(html).tokens)


@quick
@given(texts, texts)
def test_page_holds_every_token(question: str, said: str) -> None:
    made = encode(question, said)
    page = Reader(mask_page.page(TOKENIZER, [made, made], "title"))
    found = [(int(token), kind) for kind, _, ids in page.tokens for token in ids.split()]
    assert tuple(token for token, _ in found) == made.ids * 2
    assert [int(kind) for _, kind in found] == made.trained_flags() * 2
    assert "".join(text for _, text, _ in page.tokens) == TOKENIZER.decode(made.ids) * 2


def test_page_counts_and_names_each_row() -> None:
    rows = [encode("Hi", "Hello!"), encode("Hi", "Bye!", "Well.", file="b.jsonl")]
    page = Reader(mask_page.page(TOKENIZER, rows, "title"))
    for (name, head), row in zip(page.heads, rows, strict=True):
        assert (name, head["line"]) == (row.file, 3)
        assert (head["num"], head["trained"]) == (len(row.ids), row.num_trained_tokens)


def test_page_of_no_rows() -> None:
    assert Reader(mask_page.page(TOKENIZER, [], "title")).tokens == []


def test_page_of_many_rows_is_small() -> None:
    """Each glyph stands once: 4 to 6 bytes a token, it was 40."""
    rows = [encode(f"Question {n}", "Some words of an answer. " * 20) for n in range(50)]
    page = mask_page.page(TOKENIZER, rows, "title")
    empty = mask_page.page(TOKENIZER, [], "title")
    assert len(page) - len(empty) < 8 * sum(len(row.ids) for row in rows)


def test_page_needs_no_network() -> None:
    page = mask_page.page(TOKENIZER, [encode("Hi", "Hello")], "title")
    assert "http:" not in page and "https:" not in page and "url(" not in page


def test_page_in_chinese() -> None:
    """Every word; places for numbers and looks are the same in both."""
    rows = [encode("Hi", "Hello")]
    page = mask_page.page(TOKENIZER, rows, "title", "zh")
    assert 'lang="zh"' in page and "参与训练" in page
    assert "trained tokens" not in page and "Search" not in page
    for english, chinese in mask_page.WORDS.values():
        marks = [sorted(re.findall(r"\{(\w+)", text)) for text in (english, chinese)]
        assert marks[0] == marks[1], english
        assert english != chinese
