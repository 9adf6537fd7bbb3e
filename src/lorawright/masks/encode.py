"""Conversations → token ids with proven spans, a batch at a time.

Every row passes derivation A before it is tokenized and B after; a row where they differ becomes a
problem with both views. Nothing leaves without a problem that names it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import date

import jinja2

from lorawright.config.schema import (
    DataSettings,
    OverlongPolicy,
    SpecialTokensPolicy,
    StrictPolicy,
    SwallowedPolicy,
    TrainOn,
)
from lorawright.masks import (
    answers,
    dropped_text,
    generation_tags,
    message_forms,
    reasoning,
    special_tokens,
)
from lorawright.masks.answers import ChatView
from lorawright.masks.derive import UnprovenMask
from lorawright.masks.dropped_text import Found
from lorawright.masks.generation_tags import TagsDisagree
from lorawright.masks.sequences import ReadSequence, Row, SequenceReader
from lorawright.masks.time_limit import TimeLimit
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.masks.turn_markers import TurnMarkers, learn
from lorawright.types import Conversation, EncodedChat, Kind, Problem, Role, Severity, Span

BATCH = 512  # rows per call of the Rust tokenizer: larger ones gain nothing measurable


@dataclass
class MaskCounts:
    """What was proven, counted while rows pass."""

    num_rows: int = 0
    num_sequences: int = 0  # of which the rows are made
    num_spans: int = 0
    num_agreed_text_ids: int = 0
    num_agreed_tags: int = 0
    num_with_reasoning: int = 0
    num_own_variables: int = 0  # rows with `chat_template_kwargs`
    num_kept_apart: int = 0  # answers that start with white space: cut from their header
    num_swallowed: int = 0  # what the template dropped, where that is allowed
    idle_keys: Counter[str] = field(default_factory=Counter)  # of messages; not rendered
    rendered_keys: Counter[str] = field(default_factory=Counter)  # the same; rendered
    tags_problem: str | None = None

    def add(self, other: MaskCounts) -> None:
        """Counts what another process has counted."""
        for counted in fields(MaskCounts):
            if counted.name != "tags_problem":
                mine = getattr(self, counted.name)
                setattr(self, counted.name, mine + getattr(other, counted.name))


@dataclass
class Encoder:
    """Encodes the chats of one run.

    Args:
        tokenizer: The model's.
        settings: What is trained, and the policies.
        tags: Source of a template with generation tags, and the file it came from.
    """

    tokenizer: ChatTokenizer
    settings: DataSettings
    tags: tuple[str, str] | None = None
    counts: MaskCounts = field(default_factory=MaskCounts)

    def __post_init__(self) -> None:
        self.markers: TurnMarkers = learn(self.tokenizer)
        self._sequences = SequenceReader(self.tokenizer, self.markers, self.settings.train_on)
        self._tokens = special_tokens.pattern(
            (*self.tokenizer.control_ids, *self.markers.role_tokens)
        )

    def run(self, rows: Iterable[Conversation | Problem]) -> Iterator[EncodedChat | Problem]:
        """Yields encoded chats and problems in the order of the rows."""
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            rendered: list[Problem | Row] = []
            with TimeLimit() as limit:
                for row in batch:
                    rendered += [row] if isinstance(row, Problem) else self._render(row, limit)
            yield from self._encode(rendered)

    def _render(self, chat: Conversation, limit: TimeLimit) -> list[Problem | Row]:
        found = list(special_tokens.find(chat, self._tokens))
        if found and self.settings.special_tokens_in_text is SpecialTokensPolicy.ERROR:
            return [_forged(chat, path, token) for path, token in found]
        if found:
            if any(token in self.markers.role_tokens for _, token in found):
                return [self._unproven(chat, UnprovenMask(found[0][0], SPELLED_ROLE, SPELLED_HINT))]
            chat = special_tokens.mark(chat, self._tokens)
        if self.markers.renders_reasoning:
            chat = reasoning.separate(chat)
        try:
            return limit.run(chat.where, lambda: self._viewed(chat, is_escaped=bool(found)))
        except UnprovenMask as refusal:
            return [self._unproven(chat, refusal)]
        except jinja2.TemplateError as error:
            what = f"the chat template refuses this chat: {error}"
            severity = _severity(self.settings.invalid)
            return [_problem(chat, "messages", what, Kind.TEMPLATE, TEMPLATE_HINT, severity)]

    def _viewed(self, chat: Conversation, *, is_escaped: bool) -> list[Problem | Row]:
        """The chat in the first form that the template renders whole; else what the first lacks."""
        refused: list[jinja2.TemplateError | UnprovenMask] = []
        partly: list[tuple[Row, Found]] = []
        for form in message_forms.forms(chat):
            try:
                view = self._view(form, self.tokenizer)
            except (jinja2.TemplateError, UnprovenMask) as error:
                refused.append(error)
                continue
            if is_escaped and special_tokens.ESCAPED_START in view.text.lower():
                raise UnprovenMask("messages", SPELLED, SPELLED_HINT)
            found = _said(form, view)
            if not found.missing:
                return self._complete((form, view), found)
            partly.append(((form, view), found))
        if not partly:
            raise refused[0]
        return self._complete(*partly[0])

    def _complete(self, row: Row, found: Found) -> list[Problem | Row]:
        chat, view = row
        lost = self._swallowed(chat, found)
        if lost and self.settings.swallowed is SwallowedPolicy.ERROR:
            return [*lost]
        return [*lost, *self._idle_flags(chat), *self._check_tags(chat, view), row]

    def _view(self, chat: Conversation, tokenizer: ChatTokenizer) -> ChatView:
        settings = self.settings
        return answers.by_text(
            tokenizer, self.markers, chat, settings.train_on,
            train_reasoning=settings.train_reasoning,
        )  # fmt: skip

    def _swallowed(self, chat: Conversation, found: Found) -> list[Problem]:
        """What the row says and the rendered chat does not."""
        if found.idle_keys or found.rendered_keys:
            self.counts.idle_keys.update(found.idle_keys)
            self.counts.rendered_keys.update(found.rendered_keys)
        if not found.missing:
            return []
        self.counts.num_swallowed += len(found.missing)
        warns = self.settings.swallowed is SwallowedPolicy.WARN
        severity = Severity.WARNING if warns else Severity.ERROR
        return [
            _problem(chat, missing.path, SWALLOWED, Kind.SWALLOWED, missing.hint, severity)
            for missing in found.missing
        ]

    def _idle_flags(self, chat: Conversation) -> list[Problem]:
        """`train: true` where it changes nothing is said, not swallowed."""
        if self.settings.train_on is TrainOn.ALL:
            return []
        return [
            _problem(
                chat, f"messages[{index}].train", IDLE, Kind.SHAPE, IDLE_HINT, Severity.WARNING
            )
            for index, message in enumerate(chat.messages)
            if message.train and message.role is not Role.ASSISTANT
        ]

    def _check_tags(self, chat: Conversation, view: ChatView) -> list[Problem]:
        """Derivation C; its first disagreement is reported once and ends it."""
        if self.tags is None or self.counts.tags_problem is not None:
            return []
        source, file = self.tags
        tokenizer = self.tokenizer
        try:
            if tokenizer.template_date is not None:  # Transformers tells tags no other day's date
                tokenizer = replace(tokenizer, date=date.today())
                view = self._view(chat, tokenizer)
            generation_tags.check(source, tokenizer, chat, view)
        except (TagsDisagree, jinja2.TemplateError) as error:
            self.counts.tags_problem = str(error)
            message = f"{error} (row {chat.where})"
            return [
                Problem(file, None, "template.generation_tags", message, TAGS_HINT, Kind.TEMPLATE)
            ]
        self.counts.num_agreed_tags += 1
        return []

    def _encode(self, batch: list[Problem | Row]) -> Iterator[EncodedChat | Problem]:
        rows = [row for row in batch if isinstance(row, tuple)]
        read = iter(self._sequences.read(rows))
        for row in batch:
            if isinstance(row, Problem):
                yield row
                continue
            found = next(read)
            if isinstance(found, UnprovenMask):
                yield self._unproven(row[0], found)
            else:
                yield from self._fitted(row[0], found)

    def _fitted(
        self, chat: Conversation, read: list[ReadSequence]
    ) -> Iterator[EncodedChat | Problem]:
        """The sequences of a chat as they are trained, or what keeps it out."""
        if not any(one.spans for one in read):
            severity = _severity(self.settings.untrained)
            message = "has no trained token"
            yield _problem(chat, "messages", message, Kind.UNTRAINED, UNTRAINED_HINT, severity)
            return
        unknown = self._unknown(chat, read)
        if unknown is not None:
            yield unknown
            if unknown.severity is Severity.ERROR:
                return
        limit, policy = self.settings.max_length, self.settings.overlong
        longest = max(len(one.ids) for one in read)
        if longest <= limit:
            kept = [(one.ids, one.spans) for one in read]
        else:
            kept = _cut(read, limit) if policy is OverlongPolicy.CUT else []
            yield self._overlong(chat, read, kept)
        if kept:
            self._count(read, kept)
            self.counts.num_own_variables += bool(chat.variables)
            self.counts.num_with_reasoning += any(map(reasoning.of, chat.messages))
        for number, (ids, spans) in enumerate(kept):
            yield EncodedChat(
                tuple(ids), tuple(spans), chat.file, chat.line, chat.split, number, len(kept)
            )

    def _unknown(self, chat: Conversation, read: list[ReadSequence]) -> Problem | None:
        """Text that the vocabulary cannot write: it would be trained as its unknown token."""
        token = self.tokenizer.unknown_id
        if token is None or not any(token in one.ids for one in read):
            return None
        num = max(one.ids.count(token) for one in read)
        self.counts.num_swallowed += num
        is_error = self.settings.swallowed is SwallowedPolicy.ERROR
        severity = Severity.ERROR if is_error else Severity.WARNING
        what = f"has text that this model's vocabulary cannot write: {num} unknown tokens"
        return _problem(chat, "messages", what, Kind.SWALLOWED, UNKNOWN_HINT, severity)

    def _overlong(
        self, chat: Conversation, read: list[ReadSequence], kept: list[tuple[list[int], list[Span]]]
    ) -> Problem:
        """What became of a chat that is longer than the limit."""
        longest = max(len(one.ids) for one in read)
        if kept:
            had, has = (
                sum(end - start for spans in them for start, end in spans)
                for them in ([one.spans for one in read], [spans for _, spans in kept])
            )
            size = max(len(ids) for ids, _ in kept)
            what = f"cut from {longest} to {size} tokens; {had - has} trained ones lost"
            severity = Severity.WARNING
        else:
            what = f"has {longest} tokens, the limit is {self.settings.max_length}"
            is_error = self.settings.overlong is OverlongPolicy.ERROR
            severity = Severity.ERROR if is_error else Severity.DROPPED
            if self.settings.overlong is OverlongPolicy.CUT:
                what += "; no whole answer fits"
        return Problem(
            chat.file, chat.line, "messages", what, OVERLONG_HINT, Kind.OVERLONG, severity,
            chat.split,
        )  # fmt: skip

    def _unproven(self, chat: Conversation, refusal: UnprovenMask) -> Problem:
        severity = _severity(self.settings.invalid)
        hint = refusal.hint or MASK_HINT
        return _problem(chat, refusal.path, str(refusal), Kind.MASK, hint, severity)

    def _count(self, read: list[ReadSequence], kept: list[tuple[list[int], list[Span]]]) -> None:
        self.counts.num_rows += 1
        self.counts.num_sequences += len(kept)
        self.counts.num_spans += sum(len(spans) for _, spans in kept)
        self.counts.num_agreed_text_ids += 1
        for one in read:
            self.counts.num_kept_apart += one.num_kept_apart


def _said(chat: Conversation, view: ChatView) -> Found:
    text = view.text
    if len(view.sequences) > 1:
        text = "\n".join([text, *(one.text for one in view.sequences)])
    return dropped_text.find(chat, text, view.targets)


def _cut(read: list[ReadSequence], limit: int) -> list[tuple[list[int], list[Span]]]:
    """Each sequence behind its last answer that fits; one without such an answer is left out."""
    kept = []
    for one in read:
        ids = one.ids
        cut = max((end for _, end in one.answers if end <= limit), default=0)
        end = len(ids) if len(ids) <= limit else cut
        if end:
            kept.append((ids[:end], [(a, min(b, end)) for a, b in one.spans if a < end]))
    return kept


MASK_HINT = (
    "a row is only trained if its mask is proven; change it, or leave it out with "
    "`data.invalid: drop`"
)
SWALLOWED = "is dropped by this model's chat template: it is not in the rendered chat"
SPELLED = "spells a control token inside a value that the template escapes"
SPELLED_ROLE = "spells a token that turns begin with, which this tokenizer reads as nothing else"
SPELLED_HINT = "take the token out of the text"
UNKNOWN_HINT = "change them, or set `data.swallowed: warn` to train with its unknown token there"
IDLE = "is true, which has no effect: only answers are trained"
IDLE_HINT = "take the flag out, or set `data.train_on: all`"
TEMPLATE_HINT = "change the row, or leave it out with `data.invalid: drop`"
TAGS_HINT = (
    "correct the tags: they may only be put around the answer and its end token, adding no text"
)
UNTRAINED_HINT = "leave such rows out with `data.untrained: drop`, or see `data.train_on`"
OVERLONG_HINT = "raise `data.max_length`, or choose `data.overlong: drop` or `cut`"


def _severity(policy: StrictPolicy) -> Severity:
    return Severity.DROPPED if policy is StrictPolicy.DROP else Severity.ERROR


def _forged(chat: Conversation, path: str, token: str) -> Problem:
    spelled = (
        "a private-use character" if token in (special_tokens.START, special_tokens.END) else token
    )
    return _problem(
        chat,
        path,
        f"spells the control token {spelled}",
        Kind.FORGED,
        "take it out, or encode it as plain text with `data.special_tokens_in_text: escape`",
    )


def _problem(
    chat: Conversation,
    path: str,
    message: str,
    kind: Kind,
    hint: str,
    severity: Severity = Severity.ERROR,
) -> Problem:
    return Problem(
        chat.file, chat.line, _in_row(chat, path), message, hint, kind, severity, chat.split
    )


def _in_row(chat: Conversation, path: str) -> str:
    """A path into our messages as one into the row it came from."""
    match = re.match(r"messages\[(\d+)\](.*)", path)
    if match:
        return chat.path(int(match.group(1)), match.group(2))
    return chat.paths[0].partition("[")[0] if path == "messages" and chat.paths else path
