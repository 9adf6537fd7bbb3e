"""GGUF: llama.cpp's names of splitting rules, ids from the file's metadata, bounds by dtype."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_library
import pytest
from gguf import TokenType
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from lorawright import hub
from lorawright.config.schema import Dtype
from lorawright.errors import ModelError
from lorawright.exporters import gguf, gguf_rules, gguf_sentencepiece, gguf_tokenizer, proof
from lorawright.exporters.gguf_tokenizer import GgufTokenizer
from lorawright.run.folder import RunFolder, read_config
from lorawright.types import GgufType

TINY = hub.model_folder("tiny")
TEXTS = [
    "Hello, we've 12345 things!",
    "  a \n\n b\t2024年",
    "<|im_start|>user\nDON'T 3.14<|im_end|>",
]
BYTES = {
    "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False
}  # fmt: skip


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


def read_back(found: GgufTokenizer, folder: Path, name: str = "x") -> Callable[[str], list[int]]:
    """The reader of a GGUF file that holds nothing but a tokenizer."""
    file = folder / "vocab.gguf"
    writer = gguf_library.GGUFWriter(file, "llama")
    writer.add_name(found.safe_name(name))
    found.add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return gguf_tokenizer.open_file(file)


@pytest.mark.parametrize(
    ("rule", "parts", "whole_words"),
    [
        ("gpt-2", [{**BYTES, "use_regex": True}], False),
        (
            "smollm",
            [{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}],
            False,
        ),
        ("qwen2", [split(gguf_rules.QWEN2), BYTES], False),
        ("dbrx", [split(gguf_rules.LLAMA3), BYTES], False),
        ("llama-bpe", [split(gguf_rules.LLAMA3), BYTES], True),
        ("deepseek-v3", [*map(split, gguf_rules.DEEPSEEK3), BYTES], False),
        ("tekken", [split(gguf_rules.TEKKEN), BYTES], True),
        ("gpt-4o", [split(gguf_rules.GPT4O), BYTES], False),
    ],
)
def test_rules(rule: str, parts: list[dict[str, Any]], whole_words: bool, tmp_path: Path) -> None:
    """Named as llama.cpp names it; the file's metadata alone give the tokenizer's own ids."""
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    content = json.loads((base / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    content["model"]["ignore_merges"] = whole_words
    (base / "tokenizer.json").write_text(json.dumps(content))
    found = gguf_tokenizer.read(base, "base", 2304)
    assert found.rule == rule
    ours = Tokenizer.from_file(str(base / "tokenizer.json"))
    theirs = read_back(found, tmp_path)
    for text in TEXTS:
        assert theirs(text) == ours.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "parts",
    [
        [split(r"\p{L}+"), BYTES],
        [{"type": "Digits", "individual_digits": False}, {**BYTES, "use_regex": True}],
        [{"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}],
        [split(gguf_rules.QWEN2)],
    ],
)
def test_other_rules_are_refused(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    content = json.loads((base / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    (base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        ModelError, match="split as by gpt-2, smollm, qwen2, dbrx, llama-bpe, deeps"
    ):
        gguf_tokenizer.read(base, "base", 2304)


def test_what_llama_cpp_splits_otherwise() -> None:
    """It knows the case of a to z only, and combining marks are no part of its words."""
    merges = [("Ã", "©"), ("Ã", "ī"), ("Ã©", "Ãī"), ("a", "Ì"), ("aÌ", "ģ")]
    tokens = sorted({*ByteLevel.alphabet(), *(left + right for left, right in merges)})
    vocabulary = {text: number for number, text in enumerate(tokens)}
    ours = Tokenizer(BPE(vocabulary, merges))
    ours.pre_tokenizer = Sequence(
        [Split(Regex(gguf_rules.GPT4O), "isolated"), ByteLevel(False, use_regex=False)]
    )
    theirs = gguf_rules.reader(
        {
            "tokenizer.ggml.pre": "gpt-4o",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * len(tokens),
            "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        }
    )
    assert len(ours.encode("éÉ").ids) == 2 and len(theirs("éÉ")) == 1
    assert len(ours.encode("a\u0301").ids) == 1 and len(theirs("a\u0301")) == 3


def test_whole_words_that_merges_make_anyway() -> None:
    """Then the flag says nothing, and llama.cpp's rule without it serves."""
    content = json.loads((TINY / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [split(gguf_rules.QWEN2), BYTES]
    }  # fmt: skip
    content["model"]["ignore_merges"] = True
    for token in content["added_tokens"]:
        content["model"]["vocab"].pop(token["content"], None)
    assert gguf_rules.find(content, "base") == "qwen2"
    content["model"]["merges"].pop()
    with pytest.raises(ModelError, match="its tokenizer is not one that this converts"):
        gguf_rules.find(content, "base")


def sentencepiece(normalizer: Any, splitter: Any) -> dict[str, Any]:
    """A small vocabulary as SentencePiece's converter writes it: every way of making a token."""
    words = [
        "▁▁▁▁",
        "▁Hello,",
        "▁have",
        "▁things!",
        "\n\n\n",
        "user",
        "assistant",
        "每天都好",
        "12345",
    ]
    parts = {w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    made = sorted((part for part in parts if len(part) > 1), key=lambda text: (len(text), text))
    letters = sorted(part for part in parts if len(part) == 1)
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *gguf_sentencepiece.BYTES, *made, *letters]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = [
        [text[:middle], text[middle:]]
        for text in made
        for middle in range(1, len(text))
        if text[:middle] in vocabulary and text[middle:] in vocabulary
    ]
    content = json.loads((TINY / "tokenizer.json").read_text())
    added = [*special, "<|im_start|>", "<|im_end|>", "<|endoftext|>", "\n\n", "▁▁"]
    template = content["added_tokens"][0]
    ids = dict(vocabulary)
    for text in added:
        ids.setdefault(text, len(ids))
    content["added_tokens"] = [
        {
            **template, "id": ids[text], "content": text,
            "special": text.startswith("<"), "normalized": False,
        }
        for text in added
    ]  # fmt: skip
    content["model"] = {
        **content["model"], "vocab": vocabulary, "merges": merges, "unk_token": "<unk>",
        "fuse_unk": True, "byte_fallback": True,
    }  # fmt: skip
    return {**content, "normalizer": normalizer, "pre_tokenizer": splitter, "post_processor": None}


def metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPENDED = {
    "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]
}  # fmt: skip
GEMMA = {
    "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False
}  # fmt: skip


def written(content: dict[str, Any], folder: Path) -> Path:
    base = folder / "base"
    shutil.copytree(TINY, base)
    (base / "tokenizer.json").write_text(json.dumps(content))
    return base


@pytest.mark.parametrize(
    ("normalizer", "splitter", "prefixed", "lead"),
    [
        (PREPENDED, None, True, ""),
        (SPACES, GEMMA, False, ""),
        (None, metaspace("never"), False, ""),
        (None, metaspace("first"), False, "<s>"),
    ],
)
def test_sentencepiece(
    normalizer: Any, splitter: Any, prefixed: bool, lead: str, tmp_path: Path
) -> None:
    """Scores in place of merges, types, spaces; ids from the metadata alone."""
    base = written(sentencepiece(normalizer, splitter), tmp_path)
    found = gguf_tokenizer.read(base, "base", 700)
    kinds = dict(zip(found.tokens, found.types, strict=True))
    assert (found.model, found.rule, found.prefixed) == ("llama", "default", prefixed)
    assert kinds["<unk>"] is TokenType.UNKNOWN and kinds["<0x0A>"] is TokenType.BYTE
    assert kinds["<|im_end|>"] is TokenType.CONTROL and kinds["[PAD699]"] is TokenType.UNUSED
    assert kinds["\n\n"] is TokenType.USER_DEFINED and kinds["▁▁"] is TokenType.NORMAL
    ours = Tokenizer.from_file(str(base / "tokenizer.json"))
    theirs = read_back(found, tmp_path)
    for text in (*TEXTS, "", "Hello", "   have  things   and\n\n\n每天 x<|im_end|>  a<s>b", "▁é😀"):
        expected = ours.encode(lead + text, add_special_tokens=False).ids
        assert theirs(lead + text) == expected, text


def test_other_sentencepieces_are_refused(tmp_path: Path) -> None:
    def refused(match: str, content: dict[str, Any], name: str) -> None:
        base = written(content, tmp_path / name)
        with pytest.raises(ModelError, match=match):
            gguf_tokenizer.read(base, "base", 700)

    spaces, merges = "treats spaces as llama.cpp does not", "does not merge as SentencePiece does"
    refused(spaces, sentencepiece(None, metaspace("always")), "always")
    refused(spaces, sentencepiece(None, {**metaspace("never"), "split": True}), "split")
    refused(spaces, sentencepiece(PREPENDED, metaspace("never")), "both")
    content = sentencepiece(PREPENDED, None)
    del content["model"]["merges"][3]
    refused(merges, content, "one way less")
    content = sentencepiece(PREPENDED, None)
    del content["model"]["vocab"]["<0xFF>"]
    refused(merges, content, "no byte")
    content = sentencepiece(PREPENDED, None)
    ways = content["model"]["merges"]
    first = next(n for n, way in enumerate(ways) if len("".join(way)) > 3)
    ways.append(ways.pop(first))
    refused(merges, content, "order")


def test_white_space_after_phi_3s_control_tokens(tmp_path: Path) -> None:
    """llama.cpp strips it for models of that name alone, and for all of them."""
    content = sentencepiece(PREPENDED, None)
    plain = gguf_tokenizer.read(written(content, tmp_path / "plain"), "base", 700)
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] in ("</s>", "<|im_start|>", "<|im_end|>")
    base = written(content, tmp_path / "stripping")
    stripping = gguf_tokenizer.read(base, "base", 700)
    assert stripping.safe_name("mine") == "mine (Phi-3)"
    assert stripping.safe_name("My-phi3") == "My-phi3"
    assert plain.safe_name("My-PHI-3-phi3") == "My-PHI 3-phi 3"
    ours = Tokenizer.from_file(str(base / "tokenizer.json"))
    text = "<|im_start|> \n user<|im_end|>\n<s> a<|endoftext|> b"
    expected = ours.encode(text, add_special_tokens=False).ids
    assert read_back(stripping, tmp_path)(text) == expected
    assert read_back(plain, tmp_path, "phi3")(text) != expected


def test_bound_of_a_run_in_bfloat16(finished_run: RunFolder) -> None:
    """Base and adapter are computed in bfloat16 there: that rounds more than a float32 file."""
    parts = proof.open_parts(finished_run, read_config(finished_run))
    assert gguf._usual_bound(GgufType.F32, parts) == 1e-4
    settings = parts.files.settings.model_copy(update={"dtype": Dtype.BFLOAT16})
    rounded = replace(parts, files=replace(parts.files, settings=settings))
    assert gguf._usual_bound(GgufType.F32, rounded) == 1e-2
    assert gguf._usual_bound(GgufType.Q4_0, rounded) == 0.6
