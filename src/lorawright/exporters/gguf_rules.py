"""Byte-level BPE: how text is cut into words, by llama.cpp's names, and what it makes of them.

llama.cpp has one rule for each name (`tokenizer.ggml.pre`). Some of its rules are not quite those
of the tokenizers for which they stand; what it does is written beside what they do:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
`tools/llama_cpp_check.py` compares each with llama.cpp itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from lorawright.errors import ModelError
from lorawright.exporters.gguf_families import CONVERTER_HINT

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"{ENDING}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
DIGIT = r"\p{N}"
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)


def _by_case(upper: str, lower: str, ending: str, digits: str) -> str:
    """Words that end where small letters are followed by a capital one."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{before}{upper}*{lower}+{ending}|{before}{upper}+{lower}*{ending}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
    )


CASES = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]")
# llama.cpp knows the case of a to z only, and takes combining marks for no part of a word.
LLAMA_CPP_CASES = (r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]")
TEKKEN = _by_case(*CASES, "", DIGIT)
GPT4O = _by_case(*CASES, f"{ENDING}?", r"\p{N}{1,3}")


class Rule(NamedTuple):
    """How a tokenizer cuts text into words and joins a word.

    Attributes:
        patterns: Regular expressions, each applied to the pieces of the one before.
        whole_words: A word that is a token is taken as it is, without merges.
        read_as: What llama.cpp has in their place, if it is something else.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    read_as: tuple[str, ...] = ()


RULES = {
    "gpt-2": Rule((GPT2,)),
    "smollm": Rule((DIGIT, GPT2)),
    "qwen2": Rule((QWEN2,)),
    "dbrx": Rule((LLAMA3,)),
    "llama-bpe": Rule((LLAMA3,), whole_words=True),
    "deepseek-v3": Rule(DEEPSEEK3),
    "tekken": Rule((TEKKEN,), True, (_by_case(*LLAMA_CPP_CASES, "", DIGIT),)),
    "gpt-4o": Rule((GPT4O,), False, (_by_case(*LLAMA_CPP_CASES, f"{ENDING}?", r"\p{N}{1,3}"),)),
}


def find(content: Mapping[str, Any], name: str) -> str:
    """llama.cpp's name of the rule of a `tokenizer.json`.

    Raises:
        ModelError: It has no such rule.
    """
    model = content["model"]
    splitter = content.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    bytewise = [part for part in parts if part.get("type") == "ByteLevel"]
    fits = (
        model.get("type") == "BPE"
        and bytewise
        and not any(part.get("add_prefix_space") for part in bytewise)
    )
    patterns = tuple(pattern for part in parts for pattern in _patterns(part))
    found = {rule: known for rule, known in RULES.items() if known.patterns == patterns and fits}
    whole_words = bool(model.get("ignore_merges"))
    for rule, known in found.items():
        if known.whole_words == whole_words:
            return rule
    if not found or not _merges_all(model):
        raise ModelError(
            "its tokenizer is not one that this converts: SentencePiece's BPE, or byte-level BPE, "
            f"split as by {', '.join(RULES)}",
            where=name,
            hint=CONVERTER_HINT,
        )
    return next(iter(found))


def _patterns(part: Mapping[str, Any]) -> list[str]:
    """The expressions of one part of a pre-tokenizer; an empty one that no rule has if unknown."""
    match part:
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            return [pattern]
        case {"type": "Digits", "individual_digits": True}:
            return [DIGIT]
        case {"type": "ByteLevel"}:
            return [GPT2] if part.get("use_regex", True) else []
    return [""]


def merge_pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Both ways in which a `tokenizer.json` writes them."""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _merges_all(model: Mapping[str, Any]) -> bool:
    """Whether merges make every token of its characters: then taking words whole is the same."""
    joiner = BPE(model["vocab"], list(merge_pairs(model)))
    return all(len(joiner.tokenize(text)) == 1 for text in model["vocab"])


def reader(fields: Mapping[str, Any]) -> Callable[[str], list[int]]:
    """Text → ids as llama.cpp reads it, from nothing but a file's metadata.

    There is no normalizer, since llama.cpp applies none.
    """
    rule = RULES[fields["tokenizer.ggml.pre"]]
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {text: token_id for token_id, text in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=rule.whole_words))
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(pattern), "isolated") for pattern in rule.read_as or rule.patterns]
        + [ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    kinds = fields["tokenizer.ggml.token_type"]
    for kind, add in (
        (TokenType.CONTROL, tokenizer.add_special_tokens),
        (TokenType.USER_DEFINED, tokenizer.add_tokens),
    ):
        texts = [text for text, its_kind in zip(tokens, kinds, strict=True) if its_kind == kind]
        add([AddedToken(text, normalized=False) for text in texts])

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return encode
