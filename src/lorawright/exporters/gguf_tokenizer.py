"""tokenizer.json and chat template → the metadata of a GGUF: tokens, types, merges, template.

For byte-level BPE, whose splitting rule llama.cpp knows by name. The end of an answer is the token
that the chat template puts there, whatever else the model's files list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from lorawright import masks
from lorawright.errors import ModelError
from lorawright.exporters.gguf_file import CONVERTER_HINT

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
DIGIT = r"\p{N}"


class Rule(NamedTuple):
    """How a tokenizer cuts text into words and joins a word.

    Attributes:
        patterns: Regular expressions, each applied to the pieces of the one before.
        whole_words: A word that is a token is taken as it is, without merges.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False


# llama.cpp's name of each rule (`tokenizer.ggml.pre`) and what it does by that name:
# https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
# `tools/llama_cpp_check.py` compares each with llama.cpp itself.
RULES = {
    "gpt-2": Rule((GPT2,)),
    "smollm": Rule((DIGIT, GPT2)),
    "qwen2": Rule((QWEN2,)),
    "dbrx": Rule((LLAMA3,)),
    "llama-bpe": Rule((LLAMA3,), whole_words=True),
}


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """The metadata under `tokenizer.`.

    Attributes:
        rule: llama.cpp's name of the splitting rule.
        tokens: All ids' texts, padded to the model's vocabulary.
        types: Their types.
        special: Merges and special ids, as the `gguf` package reads them.
        end_id: The token that ends an answer.
        template: The chat template; with a second one for tools, a list of both.
    """

    rule: str
    tokens: list[str]
    types: list[TokenType]
    special: gguf.SpecialVocab
    end_id: int
    template: str | list[dict[str, str]]

    def add_to(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.rule)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        self.special.add_to_gguf(writer, quiet=True)

    def metadata(self) -> dict[str, Any]:
        """What a reader must find again."""
        template = self.template if isinstance(self.template, str) else self.template[0]["template"]
        return {
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": [int(kind) for kind in self.types],
            "tokenizer.ggml.merges": self.special.merges,
            "tokenizer.ggml.eos_token_id": self.end_id,
            "tokenizer.chat_template": template,
        }


def read(base: Path, name: str, vocab_size: int) -> GgufTokenizer:
    """The tokenizer of a model's folder.

    Args:
        base: The folder.
        name: The model's name, for messages.
        vocab_size: Rows of the embedding.

    Raises:
        ModelError: A tokenizer that this does not convert.
        TemplateError: It has no chat template.
    """
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    rule = _rule(content, name)
    tokens, types = _tokens(content, vocab_size, name)
    tokenizer = masks.load(base, name)
    end_id = masks.learn(tokenizer).end_id
    template = masks.plain(tokenizer.template)
    both: str | list[dict[str, str]] = template
    if tokenizer.tool_template != tokenizer.template:
        both = [
            {"name": "default", "template": template},
            {"name": "tool_use", "template": masks.plain(tokenizer.tool_template)},
        ]
    special = gguf.SpecialVocab(base, load_merges=True, n_vocab=vocab_size)
    special.special_token_ids["eos"] = end_id
    special.special_token_ids["eot"] = end_id
    special.add_special_token.setdefault("bos", False)
    special.chat_template = both
    return GgufTokenizer(rule, tokens, types, special, end_id, both)


def _rule(content: dict[str, Any], name: str) -> str:
    """llama.cpp's name of the rule that cuts text into words."""
    model = content["model"]
    splitter = content.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    found = Rule(
        tuple(pattern for part in parts for pattern in _patterns(part)),
        bool(model.get("ignore_merges")),
    )
    names = [rule for rule, known in RULES.items() if known == found]
    bytewise = [part for part in parts if part.get("type") == "ByteLevel"]
    if (
        not names
        or model.get("type") != "BPE"
        or not bytewise
        or any(part.get("add_prefix_space") for part in bytewise)
    ):
        raise ModelError(
            "its tokenizer is not one that this converts: byte-level BPE, split as by "
            f"{', '.join(RULES)}",
            where=name,
            hint=CONVERTER_HINT,
        )
    return names[0]


def _patterns(part: dict[str, Any]) -> list[str]:
    """The expressions of one part of a pre-tokenizer; an empty one that no rule has if unknown."""
    match part:
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            return [pattern]
        case {"type": "Digits", "individual_digits": True}:
            return [DIGIT]
        case {"type": "ByteLevel"}:
            return [GPT2] if part.get("use_regex", True) else []
    return [""]


def open_file(path: Path) -> Tokenizer:
    """The tokenizer that llama.cpp makes of a GGUF file, from nothing but its metadata.

    It has no normalizer, since llama.cpp applies none.
    """
    reader = gguf.GGUFReader(path)
    found = {
        key: field.contents()
        for key, field in reader.fields.items()
        if key.startswith("tokenizer.ggml.")
    }
    rule = RULES[found["tokenizer.ggml.pre"]]
    tokens = found["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in found["tokenizer.ggml.merges"]]
    vocabulary = {text: token_id for token_id, text in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=rule.whole_words))
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(pattern), "isolated") for pattern in rule.patterns]
        + [ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    kinds = found["tokenizer.ggml.token_type"]
    for kind, add in (
        (TokenType.CONTROL, tokenizer.add_special_tokens),
        (TokenType.USER_DEFINED, tokenizer.add_tokens),
    ):
        texts = [text for text, its_kind in zip(tokens, kinds, strict=True) if its_kind == kind]
        add([AddedToken(text, normalized=False) for text in texts])
    return tokenizer


def _tokens(
    content: dict[str, Any], vocab_size: int, name: str
) -> tuple[list[str], list[TokenType]]:
    """Every id's text and type; ids that no token has are unused."""
    texts = {token_id: text for text, token_id in content["model"]["vocab"].items()}
    kinds = dict.fromkeys(texts, TokenType.NORMAL)
    for added in content["added_tokens"]:
        texts[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if max(texts) >= vocab_size:
        raise ModelError(
            f"has a token {max(texts)}, but its embedding {vocab_size} rows",
            where=name,
            hint="download the model again",
        )
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    return tokens, [kinds.get(number, TokenType.UNUSED) for number in range(vocab_size)]
