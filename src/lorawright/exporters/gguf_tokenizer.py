"""tokenizer.json and chat template → the metadata of a GGUF: tokens, types, merges, template.

For byte-level BPE, whose splitting rule llama.cpp knows by name. The end of an answer is the token
that the chat template puts there, whatever else the model's files list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFWriter, TokenType

from lorawright import masks
from lorawright.errors import ModelError
from lorawright.exporters.gguf_file import CONVERTER_HINT

# The regular expression that tells one splitting rule from another → llama.cpp's name for it
# (llama-vocab.cpp, unicode_regex of each `tokenizer.ggml.pre`).
RULES = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
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
    splitter = content.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    patterns = [part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"]
    rule = RULES.get(patterns[0]) if len(patterns) == 1 else None
    if content["model"].get("type") != "BPE" or rule is None:
        raise ModelError(
            "its tokenizer is not one that this converts: byte-level BPE, split as by Qwen2 or "
            "Llama 3",
            where=name,
            hint=CONVERTER_HINT,
        )
    return rule


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
