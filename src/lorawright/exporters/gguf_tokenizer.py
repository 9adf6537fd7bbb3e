"""tokenizer.json and chat template → the metadata of a GGUF: tokens, types, merges, template.

For byte-level BPE, whose splitting rule llama.cpp knows by name, and for SentencePiece's. The end
of an answer is the token that the chat template puts there, whatever else the model's files list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFWriter, TokenType

from lorawright import masks
from lorawright.errors import ModelError
from lorawright.exporters import gguf_rules, gguf_sentencepiece


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """The metadata under `tokenizer.`.

    Attributes:
        model: llama.cpp's name of the kind: `gpt2` is byte-level BPE, `llama` SentencePiece's.
        rule: llama.cpp's name of the splitting rule.
        tokens: All ids' texts, padded to the model's vocabulary.
        types: Their types.
        special: Merges and special ids, as the `gguf` package reads them.
        end_id: The token that ends an answer.
        template: The chat template; with a second one for tools, a list of both.
        scores: SentencePiece's.
        prefixed: A space is put before a text that follows a control token.
        strips: White space after a control token belongs to it, as in Phi-3.
    """

    model: str
    rule: str
    tokens: list[str]
    types: list[TokenType]
    special: gguf.SpecialVocab
    end_id: int
    template: str | list[dict[str, str]]
    scores: list[float] | None = None
    prefixed: bool = False
    strips: bool = False

    def add_to(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.rule)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.prefixed)
        self.special.add_to_gguf(writer, quiet=True)

    def metadata(self) -> dict[str, Any]:
        """What a reader must find again."""
        template = self.template if isinstance(self.template, str) else self.template[0]["template"]
        joined = (
            {"tokenizer.ggml.merges": self.special.merges}
            if self.scores is None
            else {
                "tokenizer.ggml.scores": self.scores,
                "tokenizer.ggml.add_space_prefix": self.prefixed,
            }
        )
        return {
            **joined,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": [int(kind) for kind in self.types],
            "tokenizer.ggml.eos_token_id": self.end_id,
            "tokenizer.chat_template": template,
        }

    def safe_name(self, name: str) -> str:
        """What the model may call itself: by `phi-3` or `phi3` in it llama.cpp knows Phi-3's rule.

        Only by that: it strips white space after control tokens then, and ends with
        `_Map_base::at` where a vocabulary has no `</s>`.
        """
        called = any(part in name.lower() for part in gguf_sentencepiece.STRIPPING_NAMES)
        if self.strips:
            return name if called else f"{name} (Phi-3)"
        return re.sub("(phi)-?(3)", r"\1 \2", name, flags=re.IGNORECASE)


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
    pieces = gguf_sentencepiece.is_one(content)
    prefixed = pieces and gguf_sentencepiece.prefix(content, name)
    rule = "default" if pieces else gguf_rules.find(content, name)
    tokens, types = _tokens(content, vocab_size, name)
    scores = gguf_sentencepiece.scores(content, len(tokens), name) if pieces else None
    tokenizer = masks.load(base, name)
    end_id = masks.learn(tokenizer).end_id
    template = masks.plain(tokenizer.template)
    both: str | list[dict[str, str]] = template
    if tokenizer.tool_template != tokenizer.template:
        both = [
            {"name": "default", "template": template},
            {"name": "tool_use", "template": masks.plain(tokenizer.tool_template)},
        ]
    special = gguf.SpecialVocab(base, load_merges=not pieces, n_vocab=vocab_size)
    special.special_token_ids["eos"] = end_id
    special.special_token_ids["eot"] = end_id
    special.add_special_token.setdefault("bos", False)
    special.chat_template = both
    strips = pieces and any(token["rstrip"] for token in content["added_tokens"])
    return GgufTokenizer(
        "llama" if pieces else "gpt2",
        rule,
        tokens,
        types,
        special,
        end_id,
        both,
        scores,
        prefixed,
        strips,
    )


def open_file(path: Path, reader: gguf.GGUFReader | None = None) -> Callable[[str], list[int]]:
    """Text → ids as llama.cpp reads it, from nothing but the metadata of a GGUF file."""
    reader = reader or gguf.GGUFReader(path)
    fields = {
        key: field.contents()
        for key, field in reader.fields.items()
        if key.startswith("tokenizer.ggml.") or key == "general.name"
    }
    if fields["tokenizer.ggml.model"] == "llama":
        return gguf_sentencepiece.Reader(fields)
    return gguf_rules.reader(fields)


def _tokens(
    content: dict[str, Any], vocab_size: int, name: str
) -> tuple[list[str], list[TokenType]]:
    """Every id's text and type; ids that no token has are unused."""
    model = content["model"]
    pieces = gguf_sentencepiece.is_one(content)
    texts = {token_id: text for text, token_id in model["vocab"].items()}
    kinds = dict.fromkeys(texts, TokenType.NORMAL)
    if pieces:
        spelled = model["vocab"].keys() & set(gguf_sentencepiece.BYTES)
        kinds |= {model["vocab"][text]: TokenType.BYTE for text in spelled}
    for added in content["added_tokens"]:
        texts[added["id"]] = added["content"]
        kinds[added["id"]] = (
            gguf_sentencepiece.kind(added, model["unk_token"])
            if pieces
            else TokenType.CONTROL
            if added["special"]
            else TokenType.USER_DEFINED
        )
    if max(texts) >= vocab_size:
        raise ModelError(
            f"has a token {max(texts)}, but its embedding {vocab_size} rows",
            where=name,
            hint="download the model again",
        )
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    return tokens, [kinds.get(number, TokenType.UNUSED) for number in range(vocab_size)]
