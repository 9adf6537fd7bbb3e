"""What people read, in their language: English in the source, the rest from a catalogue.

Messages are English where they arise, and stay so in JSON, caches and run folders. Only what shows
them to a person translates: it looks the finished text up, in `locale/LANGUAGE/lorawright.po`.

    has 5120 tokens, the limit is 4096     the text
    has {0} tokens, the limit is {1}       the message it came from: 0 = 5120, 1 = 4096
    有 {0} 个 token，上限为 {1}            its translation; the values are put back unchanged

A value is translated only where it is a message itself, never between backticks or quotes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from lorawright.errors import ConfigError

SWITCH = "LORAWRIGHT_LANG"
HOLE = re.compile(r"\{(\d+)\}")
FEWEST_LETTERS = 6  # of a message that a value may be taken for: `a of b` is no message
PART_STARTS = ("is ", ",", ";", " ", "`")
ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)
BALANCED = "((?:[^`]|`[^`]*`)*?)"  # a comma between backticks is no comma of the message
ANYTHING = "(.*?)"
SUBJECT = "`{0}` {1}"  # a key and what is wrong with it: the latter is a message
COMMENT = re.compile(r"^((?:.*?\s)?#\s+)(.*)$")


class Language(StrEnum):
    """A language that has a catalogue; English needs none."""

    ENGLISH = "en"  # the language of the source
    CHINESE = "zh"  # simplified


LANGUAGES = tuple(str(language) for language in Language)


def parse_language(name: str, where: str) -> Language:
    """Raises ConfigError for a language without a catalogue."""
    if name not in LANGUAGES:
        raise ConfigError(f"is `{name}`, expected en or zh", where=where)
    return Language(name)


def language(environ: Mapping[str, str] = os.environ) -> Language:
    """LORAWRIGHT_LANG, else the terminal's: Chinese where the locale says so."""
    if environ.get(SWITCH) in LANGUAGES:
        return Language(environ[SWITCH])
    locale = environ.get("LC_ALL") or environ.get("LC_MESSAGES") or environ.get("LANG") or ""
    return Language.CHINESE if locale.lower().startswith("zh") else Language.ENGLISH


def translate(text: str, into: Language | None = None) -> str:
    """The text in a language, the terminal's by default; English where it has no translation."""
    into = into or language()
    return text if into is Language.ENGLISH else _catalogue(into).translate(text)


def translate_comments(yaml: str, into: Language | None = None) -> str:
    """YAML with its comments translated; nothing else of it changes."""
    into = into or language()
    return "\n".join(_translate_comment(line, into) for line in yaml.split("\n"))


def _translate_comment(line: str, into: Language) -> str:
    found = COMMENT.match(line)
    if found is None:
        return line
    start, comment = found.groups()
    example, gap, meaning = comment.rpartition("  ")  # `lorawright plan c.yaml    steps, memory`
    return f"{start}{example}{gap}{translate(meaning, into)}"


def read_catalogue(text: str) -> dict[str, str]:
    """msgid → msgstr of a .po file, without its header."""
    pairs = ((_unquote(key), _unquote(value)) for key, value in ENTRY.findall(text))
    return {key: value for key, value in pairs if key}


def _unquote(lines: str) -> str:
    return "".join(json.loads(line) for line in lines.splitlines())


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A message with holes: what stands between them, and its translation."""

    literals: tuple[str, ...]
    longest: str
    translation: str

    def match(self, text: str) -> tuple[str, ...] | None:
        """The values of the holes, if the text is this message."""
        if self.longest not in text:
            return None
        value = ANYTHING if text.count("`") % 2 else BALANCED
        found = _expression(self.literals, value).fullmatch(text)
        return None if found is None else found.groups()

    @property
    def may_be_a_value(self) -> bool:
        """Whether it says enough to take a value for it: `a of b` may be anything."""
        num_letters = sum(c.isalpha() for literal in self.literals for c in literal)
        return num_letters >= FEWEST_LETTERS or self.literals[0].startswith(PART_STARTS)

    def fill(self, values: list[str]) -> str:
        """The translation with the values of the holes."""
        return HOLE.sub(lambda hole: values[int(hole.group(1))], self.translation)


def _pattern(message: str, translation: str) -> _Pattern:
    literals = tuple(HOLE.split(message)[::2])
    return _Pattern(literals, max(literals, key=len), translation)


@cache  # few of the hundreds are ever needed
def _expression(literals: tuple[str, ...], value: str) -> re.Pattern[str]:
    return re.compile(value.join(map(re.escape, literals)), re.DOTALL)


class _Catalogue:
    """The messages of one language, and how a text finds its own."""

    def __init__(self, messages: dict[str, str]) -> None:
        self._exact = {key: value for key, value in messages.items() if value}
        self._patterns = [_pattern(*p) for p in self._exact.items() if HOLE.search(p[0])]
        self._patterns.append(_pattern(SUBJECT, SUBJECT))

    def translate(self, text: str) -> str:
        return self._find(text, as_value=False)[0]

    def _find(self, text: str, *, as_value: bool) -> tuple[str, int]:
        """The text translated, and how many of its characters are those of messages.

        Of several messages that it may have come from the one that explains the most is taken.
        """
        if text in self._exact:
            return self._exact[text], len(text)
        best = text, 0
        for pattern in self._patterns:
            values = pattern.match(text)
            if values is None or (as_value and not pattern.may_be_a_value):
                continue
            pairs = zip(pattern.literals, values, strict=False)
            found = [self._value(before, value) for before, value in pairs]
            explained = sum(map(len, pattern.literals)) + sum(number for _, number in found)
            if explained > best[1]:
                best = pattern.fill([shown for shown, _ in found]), explained
        return best

    def _value(self, before: str, value: str) -> tuple[str, int]:
        """A value as it is, or translated where it is a message itself."""
        quoted = before.endswith(("`", "'", '"'))
        return (value, 0) if quoted or " " not in value else self._find(value, as_value=True)


@cache
def _catalogue(into: Language) -> _Catalogue:
    place = files("lorawright.i18n") / "locale" / into / "lorawright.po"
    return _Catalogue(read_catalogue(place.read_text(encoding="utf-8")))
