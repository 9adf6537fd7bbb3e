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

import jinja2

from lorawright.config.schema import (
    DataSettings,
    OverlongPolicy,
    SpecialTokensPolicy,
    StrictPolicy,
    SwallowedPolicy,
    TrainOn,
)
from lorawright.masks import derive, dropped_text, pieces, special_tokens
from lorawright.masks.derive import TagsDisagree, TextView, UnprovenMask
from lorawright.masks.id_reader import IdReader
from lorawright.masks.pieces import Piece
from lorawright.masks.time_limit import TimeLimit
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.masks.turn_markers import TurnMarkers, learn
from lorawright.types import Conversation, EncodedChat, Kind, Problem, Role, Severity, Span

BATCH = 512  # rows per call of the Rust tokenizer: larger ones gain nothing measurable


@dataclass
class MaskCounts:
    """What was proven, counted while rows pass."""

    num_rows: int = 0
    num_spans: int = 0
    num_agreed_text_ids: int = 0
    num_agreed_tags: int = 0
    num_kept_apart: int = 0  # answers that start with white space: cut from their header
    num_read_otherwise: int = 0  # answers whose history a server reads as other ids
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
        self._reader = IdReader(self.tokenizer)
        self._tokens = special_tokens.pattern(tuple(self.tokenizer.control_ids))

    def run(self, rows: Iterable[Conversation | Problem]) -> Iterator[EncodedChat | Problem]:
        """Yields encoded chats and problems in the order of the rows."""
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            rendered: list[Problem | tuple[Conversation, TextView]] = []
            with TimeLimit() as limit:
                for row in batch:
                    rendered += [row] if isinstance(row, Problem) else self._render(row, limit)
            yield from self._encode(rendered)

    def _render(
        self, chat: Conversation, limit: TimeLimit
    ) -> list[Problem | tuple[Conversation, TextView]]:
        found = list(special_tokens.find(chat, self._tokens))
        if found and self.settings.special_tokens_in_text is SpecialTokensPolicy.ERROR:
            return [_forged(chat, path, token) for path, token in found]
        if found:
            chat = special_tokens.mark(chat, self._tokens)
        try:
            return limit.run(chat.where, lambda: self._viewed(chat, is_escaped=bool(found)))
        except UnprovenMask as refusal:
            return [self._unproven(chat, refusal)]
        except jinja2.TemplateError as error:
            what = f"the chat template refuses this chat: {error}"
            severity = _severity(self.settings.invalid)
            return [_problem(chat, "messages", what, Kind.TEMPLATE, TEMPLATE_HINT, severity)]

    def _viewed(
        self, chat: Conversation, *, is_escaped: bool
    ) -> list[Problem | tuple[Conversation, TextView]]:
        chat, view = self._by_text(chat)
        if is_escaped and special_tokens.ESCAPED_START in view.text.lower():
            raise UnprovenMask("messages", SPELLED, SPELLED_HINT)
        lost = self._swallowed(chat, view)
        if lost and self.settings.swallowed is SwallowedPolicy.ERROR:
            return [*lost]
        return [*lost, *self._idle_flags(chat), *self._check_tags(chat, view), (chat, view)]

    def _by_text(self, chat: Conversation) -> tuple[Conversation, TextView]:
        """Derivation A; templates that stumble over calls without text get empty text."""
        settings = self.settings
        try:
            return chat, derive.by_text(self.tokenizer, self.markers, chat, settings.train_on)
        except jinja2.TemplateError:
            if all(message.content is not None for message in chat.messages):
                raise
        filled = replace(
            chat,
            messages=tuple(
                replace(message, content=message.content or "") for message in chat.messages
            ),
        )
        return filled, derive.by_text(self.tokenizer, self.markers, filled, settings.train_on)

    def _swallowed(self, chat: Conversation, view: TextView) -> list[Problem]:
        """What the row says and the rendered chat does not."""
        found = dropped_text.find(
            chat, view.text, dict(zip(view.numbers, view.answers, strict=True))
        )
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

    def _check_tags(self, chat: Conversation, view: TextView) -> list[Problem]:
        """Derivation C; its first disagreement is reported once and ends it."""
        if self.tags is None or self.counts.tags_problem is not None:
            return []
        source, file = self.tags
        try:
            derive.check_tags(source, self.tokenizer, chat, view)
        except (TagsDisagree, jinja2.TemplateError) as error:
            self.counts.tags_problem = str(error)
            message = f"{error} (row {chat.where})"
            return [
                Problem(file, None, "template.generation_tags", message, TAGS_HINT, Kind.TEMPLATE)
            ]
        self.counts.num_agreed_tags += 1
        return []

    def _encode(
        self, batch: list[Problem | tuple[Conversation, TextView]]
    ) -> Iterator[EncodedChat | Problem]:
        rows = [row for row in batch if isinstance(row, tuple)]
        layouts = [pieces.layout(view) for _, view in rows]
        read = zip(layouts, self._reader.read([chat for chat, _ in rows], layouts), strict=True)
        for row in batch:
            if isinstance(row, Problem):
                yield row
                continue
            layout, ids = next(read)
            if isinstance(ids, UnprovenMask):
                yield self._unproven(row[0], ids)
            else:
                yield from self._prove(row[0], layout, ids)

    def _prove(
        self, chat: Conversation, layout: list[Piece], ids_of_pieces: list[list[int]]
    ) -> Iterator[EncodedChat | Problem]:
        ids = list(itertools.chain.from_iterable(ids_of_pieces))
        spans_a = pieces.spans(layout, ids_of_pieces)
        try:
            spans_b = derive.by_ids(ids, self.markers, chat, self.settings.train_on)
        except UnprovenMask as refusal:
            yield self._unproven(chat, refusal)
            return
        if spans_b[:1] and spans_b[0][0] == 0:
            spans_b[0] = (1, spans_b[0][1])
        if spans_a != spans_b:
            what = f"by text {self._shown(ids, spans_a)}, by ids {self._shown(ids, spans_b)}"
            message = f"the two derivations of the mask disagree: {what}"
            yield self._unproven(chat, UnprovenMask("messages", message))
            return
        encoded = EncodedChat(tuple(ids), tuple(spans_a), chat.file, chat.line, chat.split)
        if not spans_a:
            severity = _severity(self.settings.untrained)
            message = "has no trained token"
            yield _problem(chat, "messages", message, Kind.UNTRAINED, UNTRAINED_HINT, severity)
            return
        fitted = self._fit(encoded, layout, ids_of_pieces)
        if isinstance(fitted, EncodedChat):
            self._count(fitted, layout, ids_of_pieces)
            if len(spans_a) > 1:
                yield from self._read_otherwise(chat, layout, ids_of_pieces)
            if len(fitted.ids) < len(ids):
                num_lost = encoded.num_trained_tokens - fitted.num_trained_tokens
                what = (
                    f"cut from {len(ids)} to {len(fitted.ids)} tokens; {num_lost} trained ones lost"
                )
                severity = Severity.WARNING
                yield _problem(chat, "messages", what, Kind.OVERLONG, OVERLONG_HINT, severity)
        yield fitted

    def _unproven(self, chat: Conversation, refusal: UnprovenMask) -> Problem:
        severity = _severity(self.settings.invalid)
        hint = refusal.hint or MASK_HINT
        return _problem(chat, refusal.path, str(refusal), Kind.MASK, hint, severity)

    def _read_otherwise(
        self, chat: Conversation, layout: list[Piece], ids_of_pieces: list[list[int]]
    ) -> Iterator[Problem]:
        num = pieces.num_read_otherwise(self.tokenizer, layout, ids_of_pieces)
        self.counts.num_read_otherwise += num
        if num:
            what = (
                "an earlier answer begins with white space that this tokenizer joins with what "
                f"stands before it: {num} later answers are trained behind ids that differ there "
                "from what a server reads (the text is equal)"
            )
            yield _problem(chat, "messages", what, Kind.MASK, APART_HINT, Severity.WARNING)

    def _fit(
        self, chat: EncodedChat, layout: list[Piece], ids_of_pieces: list[list[int]]
    ) -> EncodedChat | Problem:
        """The chat, cut behind its last answer that fits where the policy says so."""
        limit = self.settings.max_length
        if len(chat.ids) <= limit:
            return chat
        policy = self.settings.overlong
        answers = pieces.spans([replace(p, trained=p.is_answer) for p in layout], ids_of_pieces)
        cut = max((end for _, end in answers if end <= limit), default=0)
        if policy is OverlongPolicy.CUT and cut:
            spans = tuple((start, min(end, cut)) for start, end in chat.spans if start < cut)
            return replace(chat, ids=chat.ids[:cut], spans=spans)
        message = f"has {len(chat.ids)} tokens, the limit is {limit}"
        if policy is OverlongPolicy.CUT:
            message += "; no whole answer fits"
        severity = Severity.ERROR if policy is OverlongPolicy.ERROR else Severity.DROPPED
        return Problem(
            chat.file,
            chat.line,
            "messages",
            message,
            OVERLONG_HINT,
            Kind.OVERLONG,
            severity,
            chat.split,
        )

    def _count(
        self, chat: EncodedChat, layout: list[Piece], ids_of_pieces: list[list[int]]
    ) -> None:
        self.counts.num_rows += 1
        self.counts.num_spans += len(chat.spans)
        self.counts.num_agreed_text_ids += 1
        position, in_answer = 0, False
        for piece, ids in zip(layout, ids_of_pieces, strict=True):
            begins = piece.is_answer and not in_answer and position < len(chat.ids)
            self.counts.num_kept_apart += begins and piece.text[:1].isspace()
            position, in_answer = position + len(ids), piece.is_answer

    def _shown(self, ids: list[int], spans: list[Span]) -> str:
        texts = [self.tokenizer.decode(ids[start:end]) for start, end in spans[:2]]
        return " | ".join(repr(text[:60]) for text in texts) or "nothing"


MASK_HINT = (
    "a row is only trained if its mask is proven; change it, or leave it out with "
    "`data.invalid: drop`"
)
SWALLOWED = "is dropped by this model's chat template: it is not in the rendered chat"
APART_HINT = (
    "the answers are right, and such rows may stay; to be exact, take white space from the "
    "beginning of answers, or, where the template puts it there, make a row of each answer and set "
    "`data.train_on: last_assistant`"
)
SPELLED = "spells a control token inside a value that the template escapes"
SPELLED_HINT = "take the token out of the text"
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
