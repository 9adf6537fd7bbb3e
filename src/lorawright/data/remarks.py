"""What is worth a word but stops nothing: one remark a file and name, however many rows have it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lorawright.data.formats import ParsedRow
from lorawright.data.json_rows import RawRow
from lorawright.data.problems import quote
from lorawright.types import Kind, Message, Problem, Role, Severity, Split

MOST_NAMES = 20  # of a file that are named; a file of templates may have thousands
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
# Two braces around a name. What stands before them in LaTeX, Helm and f-strings is no placeholder.
PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_$\\{}^%#=>])\{\{ ?([^\W\d][\w -]{0,39}?) ?\}\}(?!\})")

CALL = re.compile(r"\]\.(tool_calls\[\d+\]|function_call)\.")
CALL_HINT = "nothing reads it: a call has a name, arguments and an id; remove it"
KEY_HINT = "only the chat template may read it: see `lorawright inspect`, or remove it"


@dataclass(slots=True)
class Occurrences:
    """How many rows have something, and where the first one is."""

    line: int
    path: str
    num_rows: int = 0


@dataclass(slots=True)
class Remarks:
    """Gathers over the rows of one file.

    Attributes:
        keys: Keys inside messages that no format knows.
        placeholders: Names in double braces in answers that are to be trained.
    """

    keys: dict[str, Occurrences] = field(default_factory=dict)
    placeholders: dict[str, Occurrences] = field(default_factory=dict)

    def see(self, chat: ParsedRow, row: RawRow) -> None:
        """Looks at a chat that stays."""
        if chat.unknown:
            places = {key: path for path, key in reversed(chat.unknown)}
            _count(self.keys, places, row.line)
        for message in chat.messages:
            if message.content is not None and "{{" in message.content:
                _count(self.placeholders, _placeholders(chat), row.line)
                break

    def problems(self, file: str, split: Split) -> Iterator[Problem]:
        """The remarks, the most frequent first."""
        for key, found in _most_frequent(self.keys):
            yield Problem(
                file,
                found.line,
                found.path,
                f"is a key that no format knows ({found.num_rows} rows have {quote(key)}, first "
                "here)",
                CALL_HINT if CALL.search(found.path) else KEY_HINT,
                Kind.UNKNOWN_KEY,
                Severity.WARNING,
                split,
            )
        for name, found in _most_frequent(self.placeholders):
            yield Problem(
                file,
                found.line,
                found.path,
                f"holds {quote(name)}, which nothing has filled: {found.num_rows} rows, first "
                "here; it is trained as it stands",
                "put the real name in its place, if it was meant to be filled",
                Kind.PLACEHOLDER,
                Severity.WARNING,
                split,
            )


def _placeholders(chat: ParsedRow) -> dict[str, str]:
    found: dict[str, str] = {}
    for message, path in zip(chat.messages, chat.paths, strict=True):
        for name in unfilled(message):
            found.setdefault(name, path)
    return found


def _count(tallies: dict[str, Occurrences], places: dict[str, str], line: int) -> None:
    for name, path in places.items():
        tallies.setdefault(name, Occurrences(line, path)).num_rows += 1


def _most_frequent(tallies: dict[str, Occurrences]) -> list[tuple[str, Occurrences]]:
    return sorted(tallies.items(), key=lambda item: -item[1].num_rows)[:MOST_NAMES]


def unfilled(message: Message) -> list[str]:
    """Placeholders of an answer that is trained, as they stand in it; code is left alone."""
    if message.role is not Role.ASSISTANT or message.train is False or message.content is None:
        return []
    text = CODE.sub("", message.content)
    return list(dict.fromkeys(match[0] for match in PLACEHOLDER.finditer(text)))
