"""Keys and values that look like a secret: a config is copied into the run and its report.

found = list(find({"training": {"trl": {"hub_token": "…"}}}))
found[0].key   # ("training", "trl", "hub_token")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorawright.config.yaml_tree import Key

NAME = re.compile(
    r"(^|[_.-])(token|secret|password|passwd|pwd|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)s?$"
    r"|(api|access|private|secret)key$",
    re.IGNORECASE,
)
TEMPLATE_TOKEN = re.compile(r"(pad|eos|bos|unk|sep|cls|mask|image|special)_tokens?$", re.IGNORECASE)
"""Names of tokens that other tools' configs have, and that are no secret."""

VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bsk-(?:[a-z0-9]+-)*[A-Za-z0-9_]{20,}"  # OpenAI, Anthropic and those who follow them
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bxox[a-z]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}"
    r"|://[^/\s:@]+:[^/\s@]+@"  # a password in an address
)


@dataclass(frozen=True, slots=True)
class Secret:
    """Where one stands; a key that is one itself is not in `key`.

    Attributes:
        key: The setting, or the section whose key it is.
        what: What gives it away.
        inside: Whether it is one of the keys of `key`.
    """

    key: Key
    what: str
    inside: bool = False


def find(value: Any, key: Key = ()) -> Iterator[Secret]:
    """All of them, in the order of the config."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if VALUE.search(name):
                yield Secret(key, "has a key that looks like a secret", inside=True)
            elif NAME.search(name) and not TEMPLATE_TOKEN.search(name):
                yield Secret((*key, name), "is a secret by its name")
            else:
                yield from find(inner, (*key, name))
    elif isinstance(value, list):
        if any(True for inner in value for _ in find(inner)):
            yield Secret(key, "holds what looks like a secret")
    elif isinstance(value, str) and VALUE.search(value):
        yield Secret(key, "holds what looks like a secret")


def looks_like_one(text: str) -> bool:
    """Whether a text holds a secret."""
    return VALUE.search(text) is not None
