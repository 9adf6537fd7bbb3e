"""GGUF: llama.cpp's names of splitting rules, ids from the file's metadata, bounds by dtype."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_library
import pytest
from tokenizers import Tokenizer

from lorawright import hub
from lorawright.config.schema import Dtype
from lorawright.errors import ModelError
from lorawright.exporters import gguf, gguf_tokenizer, proof
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


@pytest.mark.parametrize(
    ("rule", "parts", "whole_words"),
    [
        ("gpt-2", [{**BYTES, "use_regex": True}], False),
        (
            "smollm",
            [{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}],
            False,
        ),
        ("qwen2", [split(gguf_tokenizer.QWEN2), BYTES], False),
        ("dbrx", [split(gguf_tokenizer.LLAMA3), BYTES], False),
        ("llama-bpe", [split(gguf_tokenizer.LLAMA3), BYTES], True),
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
    file = tmp_path / "vocab.gguf"
    writer = gguf_library.GGUFWriter(file, "llama")
    found.add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ours = Tokenizer.from_file(str(base / "tokenizer.json"))
    theirs = gguf_tokenizer.open_file(file)
    for text in TEXTS:
        assert theirs.encode(text).ids == ours.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "parts",
    [
        [split(r"\p{L}+"), BYTES],
        [{"type": "Digits", "individual_digits": False}, {**BYTES, "use_regex": True}],
        [{"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}],
        [split(gguf_tokenizer.QWEN2)],
    ],
)
def test_other_rules_are_refused(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    content = json.loads((base / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    (base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="split as by gpt-2, smollm, qwen2, dbrx, llama-bpe"):
        gguf_tokenizer.read(base, "base", 2304)


def test_bound_of_a_run_in_bfloat16(finished_run: RunFolder) -> None:
    """Base and adapter are computed in bfloat16 there: that rounds more than a float32 file."""
    parts = proof.open_parts(finished_run, read_config(finished_run))
    assert gguf._usual_bound(GgufType.F32, parts) == 1e-4
    settings = parts.files.settings.model_copy(update={"dtype": Dtype.BFLOAT16})
    rounded = replace(parts, files=replace(parts.files, settings=settings))
    assert gguf._usual_bound(GgufType.F32, rounded) == 1e-2
    assert gguf._usual_bound(GgufType.Q4_0, rounded) == 0.6
