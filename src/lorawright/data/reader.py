"""`DataSettings` → chats and problems, in one pass over all of train and then all of eval.

Example:
    reader = Reader(settings)
    for item in reader:  # Conversation | Problem
        ...
    reader.found, reader.counts, reader.num_rows, reader.num_chats
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import orjson

from lorawright.config.schema import DataSettings, Format, RowPolicy, StrictPolicy
from lorawright.data import checks
from lorawright.data.file_names import printable
from lorawright.data.formats import (
    KNOWN_KEYS,
    ParsedRow,
    detect,
    parse_row,
    text_key,
    unknown_format,
)
from lorawright.data.json_rows import RawRow
from lorawright.data.problems import Finding
from lorawright.data.remarks import Remarks
from lorawright.data.rows import read_rows
from lorawright.data.sources import DataFile, HubSet, find_sources
from lorawright.errors import DataError
from lorawright.types import Conversation, Kind, Problem, Severity, Split

SEVERITIES: dict[str, Severity] = {
    "error": Severity.ERROR,
    "drop": Severity.DROPPED,
    "keep": Severity.WARNING,
}
LINE_BITS = 40  # an address is one number, file and line: half the memory of a tuple


@dataclass(slots=True)
class FoundFile:
    """A file that was read.

    Attributes:
        file: Its name, as in problems.
        split: Which set its source belongs to.
        format: The format of its rows; None: no row looked like any.
        detected_by: Line (or row number) of the row that showed the format; None: it was given.
        num_rows: Rows read, broken ones included.
        unused_keys: Columns of its rows that no format knows; they are ignored.
        unused_message_keys: Keys inside messages that no format knows, and the number of rows that
            have them; they are handed to the chat template.
    """

    file: str
    split: Split
    format: Format | None
    detected_by: int | None = None
    num_rows: int = 0
    unused_keys: set[str] = field(default_factory=set)
    unused_message_keys: dict[str, int] = field(default_factory=dict)


class Reader:
    """Iterates over the `Conversation`s and `Problem`s of a config's data.

    Never raises for bad data: what cannot be opened or found is a `Problem` of kind `file`, so that
    one pass lists everything. A second iteration reads everything again.

    Attributes (complete after an iteration):
        found: The files, in reading order.
        counts: Number of problems by set and kind.
        num_rows: Rows read, by the set of their source.
        num_chats: Conversations yielded, by set.
    """

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self._policies: dict[Kind, RowPolicy | StrictPolicy] = {
            Kind.SYNTAX: settings.invalid,
            Kind.SHAPE: settings.invalid,
            Kind.ORDER: settings.invalid,
            Kind.EMPTY_ANSWER: settings.empty_answers,
            Kind.UNTRAINED: settings.untrained,
            Kind.DUPLICATE: settings.duplicates,
            Kind.LEAKED: settings.leaked,
        }
        self._fraction = settings.eval if isinstance(settings.eval, float) else None
        self._reset()

    def _reset(self) -> None:
        self.found: list[FoundFile] = []
        self.counts: Counter[tuple[Split, Kind]] = Counter()
        self.num_rows: Counter[Split] = Counter()
        self.num_chats: Counter[Split] = Counter()
        self._num_errors: Counter[Split] = Counter()
        self._seen: dict[Split, dict[bytes, int]] = {split: {} for split in Split}
        self._seen_flagged: dict[bytes, int] = {}
        self._remarks = Remarks()

    def __iter__(self) -> Iterator[Conversation | Problem]:
        self._reset()
        settings = self.settings
        yield from self._read_set(settings.train, Split.TRAIN)
        if isinstance(settings.eval, str):
            yield from self._read_set(settings.eval, Split.EVAL)
        yield from self._check_sizes()

    def _read_set(self, source: str, split: Split) -> Iterator[Conversation | Problem]:
        try:
            for part in find_sources(source, split):
                yield from self._read_source(part, split)
        except DataError as error:
            problem = Problem(
                error.where or printable(source), None, "", error.what, error.hint or "", Kind.FILE
            )
            yield self._report(problem, split)

    def _read_source(
        self, source: DataFile | HubSet, split: Split
    ) -> Iterator[Conversation | Problem]:
        given = None if self.settings.format is Format.AUTO else self.settings.format
        found = FoundFile(source.name, split, given)
        self.found.append(found)
        self._remarks = Remarks()
        because = "data.format"
        for item in read_rows(source):
            if isinstance(item, Problem):
                found.num_rows += item.line is not None
                yield self._report(item, split)
                continue
            found.num_rows += 1
            if found.format is None:
                found.format, found.detected_by = detect(item.value), item.line
                because = f"by its row at {item.file}:{item.line}"
                found.file = item.file
            yield from self._read_row(item, found, because)
        self.num_rows[split] += found.num_rows
        keys = self._remarks.keys
        found.unused_message_keys = {key: keys[key].num_rows for key in sorted(keys)}
        for remark in self._remarks.problems(found.file, split):
            self.counts[split, remark.kind] += 1
            yield remark

    def _read_row(
        self, row: RawRow, found: FoundFile, because: str
    ) -> list[Conversation | Problem]:
        if found.format is None:
            return self._problems(unknown_format(row.value), row, found.split)
        parsed = parse_row(row.value, found.format, because)
        if isinstance(parsed, list):
            return self._problems(parsed, row, found.split)
        if len(row.value) > 1 and not row.value.keys() <= KNOWN_KEYS[found.format]:
            found.unused_keys |= row.value.keys() - KNOWN_KEYS[found.format]
        return self._check(parsed, row, found.split)

    def _check(self, chat: ParsedRow, row: RawRow, split: Split) -> list[Conversation | Problem]:
        """Applies the rules; the chat itself comes last in the result, if it stays."""
        try:
            content, flagged = checks.digests(chat)
        except orjson.JSONEncodeError as error:
            finding = (
                Finding("", "holds an integer beyond 64 bits", "write it as text, in quotes")
                if "Integer" in str(error)
                else Finding(
                    "", "is nested deeper than 254 levels", "keep tools and arguments flatter"
                )
            )
            return self._problems([finding], row, split)
        if (
            self._fraction is not None
            and checks.split_draw(content, self.settings.seed) < self._fraction
        ):
            split = Split.EVAL
        findings = checks.all_findings(chat)
        if not findings or self._stays(findings):
            findings = findings + self._find_copies(content, flagged, row, split)
        result = self._problems(findings, row, split) if findings else []
        if not findings or self._stays(findings):
            self.num_chats[split] += 1
            self._remarks.see(chat, row)
            result.append(
                Conversation(
                    chat.messages,
                    chat.tools,
                    row.file,
                    row.line,
                    split,
                    chat.paths,
                    text_key(row.value),
                    chat.variables,
                )
            )
        return result

    def _stays(self, findings: list[Finding]) -> bool:
        return all(self._policies[finding.kind] is RowPolicy.KEEP for finding in findings)

    def _find_copies(
        self, content: bytes, flagged: bytes, row: RawRow, split: Split
    ) -> list[Finding]:
        here = (len(self.found) - 1) << LINE_BITS | row.line
        findings: list[Finding] = []
        first = self._seen[split].setdefault(flagged, here)
        if first != here:
            findings.append(checks.duplicate(self._where(first)))
        if split is Split.TRAIN:
            if content is not flagged:
                self._seen_flagged.setdefault(content, first)
        elif self._fraction is None:
            origin = self._seen[Split.TRAIN].get(content, self._seen_flagged.get(content))
            if origin is not None:
                findings.append(checks.leaked(self._where(origin)))
        return findings

    def _where(self, address: int) -> str:
        return f"{self.found[address >> LINE_BITS].file}:{address & ((1 << LINE_BITS) - 1)}"

    def _problems(
        self, findings: list[Finding], row: RawRow, split: Split
    ) -> list[Conversation | Problem]:
        return [
            self._report(Problem(row.file, row.line, f.path, f.message, f.hint, f.kind), split)
            for f in findings
        ]

    def _report(self, problem: Problem, split: Split) -> Problem:
        policy = self._policies.get(problem.kind, StrictPolicy.ERROR)
        severity = SEVERITIES[policy]
        self.counts[split, problem.kind] += 1
        self._num_errors[split] += severity is Severity.ERROR
        return replace(problem, split=split, severity=severity)

    def _check_sizes(self) -> Iterator[Problem]:
        """A set that ends up empty is an error of its own, where nothing said so yet."""
        for split in Split:
            given = self.settings.train if split is Split.TRAIN else self.settings.eval
            if given is not None and not self.num_chats[split] and not self._num_errors.total():
                yield self._report(self.no_chat_left(split), split)

    def no_chat_left(self, split: Split) -> Problem:
        """What is wrong where no chat of a set is left to train or evaluate on."""
        settings = self.settings
        if split is Split.EVAL and isinstance(settings.eval, float):
            message = f"a fraction of {settings.eval} leaves no chat for evaluation"
            hint = "raise data.eval, or set it to null"
            return Problem(
                printable(settings.train), None, "", message, hint, Kind.FILE, split=split
            )
        message = f"no chat is left for {split}, of {self.num_rows[split]} rows"
        hint = (
            "lower the fraction data.eval: all chats fell into the evaluation set"
            if self._fraction is not None and self.num_chats[Split.EVAL]
            else "see the rows that were dropped, and the policies under data"
        )
        source = settings.train if split is Split.TRAIN else settings.eval
        return Problem(printable(str(source)), None, "", message, hint, Kind.FILE, split=split)


def stream(settings: DataSettings) -> Iterator[Conversation | Problem]:
    """All chats and problems of a config's data; `Reader` also keeps the facts."""
    return iter(Reader(settings))
