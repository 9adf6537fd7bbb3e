"""What every generator of cases for `tools/fuzz.py` makes."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Check = Callable[[dict[str, Any]], list[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """A command line, run in its folder, and what is known of its answer.

    Attributes:
        arguments: Behind `lorawright`.
        checks: Each gives what is wrong with the JSON answer, as "verdict: words".
        is_json: Whether the command answers in JSON.
        afterwards: The same for the whole answer: `code`, `out`, `err`; also where it is refused.
    """

    arguments: list[str]
    checks: tuple[Check, ...] = ()
    is_json: bool = True
    afterwards: tuple[Check, ...] = ()


def changed(value: Any, rng: random.Random, odd: Sequence[Any], keys: Sequence[str]) -> Any:
    """A JSON value with something in it replaced, removed, renamed or added.

    Args:
        value: It is changed in place where it is a list or an object.
        rng: Chooses.
        odd: What may take a place.
        keys: What may be the name of one.
    """
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return copy.deepcopy(rng.choice(odd))
    key = rng.choice(list(value) if isinstance(value, dict) else list(range(len(value))))
    action = rng.random()
    if action < 0.6:
        value[key] = changed(value[key], rng, odd, keys)
    elif action < 0.7:
        del value[key]
    elif isinstance(value, list):
        value.insert(key, copy.deepcopy(rng.choice([*odd, value[key]])))
    elif action < 0.85:
        value[rng.choice(keys)] = value.pop(key)
    else:
        value[rng.choice(keys)] = copy.deepcopy(rng.choice(odd))
    return value


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bytes of a file changed, removed or put in."""
    data = bytearray(content)
    if rng.random() < 0.1:
        return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\0\0"]) + content
    for _ in range(rng.choice([1, 1, 3])):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.random()
        if kind < 0.4:
            data[at] = rng.randrange(256)
        elif kind < 0.6:
            del data[at : at + rng.choice([1, 4, len(data)])]
        elif kind < 0.8:
            data[at:at] = rng.choice([b"\0", b"\n", b'"', b"{", b"}", b",", b"\xe9", b"\\u0000"])
        else:
            data[at : at + 8] = rng.randbytes(8)
    return bytes(data)


def says_something(answer: dict[str, Any]) -> list[str]:
    """Refusals are `error: …` and a hint."""
    if answer["code"] and "error" not in answer["err"]:
        return [f"unsaid: exit {answer['code']}, {answer['err'].strip()[-200:]}"]
    return []
