"""`inspect --html`: chats token by token, on one page that needs no network.

The page holds the text of each different token once and each row as numbers, and draws 25 rows at a
time: rows by the thousand stay a few megabytes, and can be searched.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

import orjson

from lorawright.masks import ChatTokenizer, view
from lorawright.types import EncodedChat

ASSETS = Path(__file__).parents[1] / "assets" / "masks"

# English, Chinese. `{t:…}` and `{u:…}` are shown in the look of trained and of other tokens.
WORDS: dict[str, tuple[str, str]] = {
    "legend": (
        "Tokens that are {t:trained} and tokens that are only {u:read}. "
        "Hover over a token for its id; ↵ is a newline.",
        "{t:参与训练}的 token 和{u:只作上下文}的 token。悬停可看 id；↵ 表示换行。",
    ),
    "no_script": ("The rows need JavaScript.", "显示各行需要 JavaScript。"),
    "search": ("Search in the text", "搜索文本"),
    "search_keys": ("Search in the text  ( / )", "搜索文本（按 / 键）"),
    "file": ("File", "文件"),
    "all_files": ("all files", "全部文件"),
    "order": ("Order", "排序"),
    "in_order": ("in order", "原有顺序"),
    "longest_first": ("longest first", "从长到短"),
    "shortest_first": ("shortest first", "从短到长"),
    "least": ("from", "最少"),
    "most": ("to", "最多"),
    "least_tokens": ("Fewest tokens of a chat", "对话最少的 token 数"),
    "most_tokens": ("Most tokens of a chat", "对话最多的 token 数"),
    "tokens": ("tokens", "个 token"),
    "before": ("Rows before", "上一页"),
    "after": ("Rows after", "下一页"),
    "none": ("No row fits.", "没有符合条件的对话。"),
    "row_head": ("{num} tokens, {trained} trained", "{num} 个 token，其中 {trained} 个参与训练"),
    "range": ("{first}–{last} of {all}", "第 {first}–{last} 段，共 {all} 段"),
}
IN_SCRIPT = ("none", "row_head", "range")
LANGUAGES = ("en", "zh")


def page(
    tokenizer: ChatTokenizer, chats: Iterable[EncodedChat], title: str, language: str = "en"
) -> str:
    """A self-contained HTML page.

    Args:
        tokenizer: Of the ids.
        chats: The rows, in order.
        title: Names the config and the set.
        language: `en` or `zh`.
    """
    words = {name: pair[LANGUAGES.index(language)] for name, pair in WORDS.items()}
    parts = {name: html.escape(word) for name, word in words.items()} | {
        "lang": language,
        "title": html.escape(title),
        "legend": re.sub(
            r"\{([tu]):(.*?)\}", r'<span class="\1">\2</span>', html.escape(words["legend"])
        ),
        "css": _asset("page.css") + view.TOKEN_CSS,
        "script": _asset("page.js"),
        "data": _in_script({**_rows(tokenizer, chats), "words": {n: words[n] for n in IN_SCRIPT}}),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _asset("page.html"))


def _rows(tokenizer: ChatTokenizer, chats: Iterable[EncodedChat]) -> dict[str, object]:
    """Files and texts of tokens, each once, and rows that name them by number."""
    files: dict[str, int] = {}
    glyphs: dict[tuple[str, str], int] = {}
    rows = []
    for chat in chats:
        shown = list(view.token_texts(tokenizer, chat))
        rows.append(
            {
                "file": files.setdefault(chat.file, len(files)),
                "line": chat.line,
                "num": len(chat.ids),
                "trained": chat.num_trained_tokens,
                "glyphs": [
                    glyphs.setdefault((g.text, " ".join(map(str, g.ids))), len(glyphs))
                    for g in shown
                ],
                "spans": _spans([glyph.trained for glyph in shown]),
            }
        )
    return {"files": list(files), "glyphs": list(glyphs), "rows": rows}


def _spans(trained: list[bool]) -> list[tuple[int, int]]:
    """Where True begins and ends."""
    padded = [False, *trained, False]
    edges = [i for i in range(len(trained) + 1) if padded[i] != padded[i + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _in_script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = orjson.dumps(value).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
