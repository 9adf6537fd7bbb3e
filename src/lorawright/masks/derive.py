"""Which tokens of a chat are trained, derived in independent ways that must agree.

    text    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n|Hello!<|im_end|>|\\n
    by text                                                      └── trained ───┘
    by ids   S  user \\n Hi E \\n S assistant \\n  Hello ! E  \\n
                                               └trained┘

A, `by_text`: the chat rendered up to a turn, plus the generation prompt, must be a prefix of the
chat rendered with the turn; what follows, through the token that ends it, is the turn.
B, `by_ids`: a scan of the finished ids for assistant headers and the end tokens behind them.
C, `by_tags`: the spans of a user's own template with `{% generation %}` tags, where one is given.

The text is cut where a trained answer starts, before tokens are made: the ids up to there are
those that inference sees, also where an answer starts with a newline.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lorawright.config.schema import TrainOn
from lorawright.masks.special_tokens import unmark
from lorawright.masks.tokenizer import ChatTokenizer, Rendering, render
from lorawright.masks.turn_markers import TurnMarkers
from lorawright.types import Conversation, Role, Span

LAST_HINT = (
    "make a row of each answer and set `data.train_on: last_assistant` (`training.group_prefixes: "
    "true` computes what such rows share once)"
)
PROMPT_HINT = (
    "give the answer as the template writes it (with or without `reasoning_content`), leave such "
    "rows out with `data.invalid: drop`, or train a model whose template has no reasoning"
)


class UnprovenMask(ValueError):
    """A row whose mask cannot be proven.

    Args:
        path: Leads to the message it is about.
        why: What is wrong.
        hint: What to do, where there is something better than to change the row.
    """

    def __init__(self, path: str, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.path = path
        self.hint = hint


class TagsDisagree(ValueError):
    """The user's template with generation tags is not the model's template; ends its use."""


@dataclass(frozen=True, slots=True)
class TextView:
    """Derivation A: the rendered chat and its trained stretches.

    Attributes:
        text: The chat, rendered whole.
        trained: Character ranges that are trained, in order, none touching another.
        answers: Those of them that are answers; with `train_on: all` there are others.
        cuts: Positions where the text is cut before it is tokenized.
        numbers: The messages that the answers are.
    """

    text: str
    trained: tuple[Span, ...]
    answers: tuple[Span, ...]
    cuts: tuple[int, ...]
    numbers: tuple[int, ...] = ()


def trained_turns(conversation: Conversation, train_on: TrainOn) -> list[int]:
    """Numbers of the assistant messages that are trained; a message's own flag wins."""
    answers = [
        index
        for index, message in enumerate(conversation.messages)
        if message.role is Role.ASSISTANT
    ]
    wanted = set(answers[-1:] if train_on is TrainOn.LAST_ASSISTANT else answers)
    flags = {index: conversation.messages[index].train for index in answers}
    return [
        index for index in answers if flags[index] or (flags[index] is None and index in wanted)
    ]


def by_text(
    tokenizer: ChatTokenizer, markers: TurnMarkers, conversation: Conversation, train_on: TrainOn
) -> TextView:
    """Derivation A.

    Raises:
        UnprovenMask: The template does not render the chat turn by turn.
        jinja2.TemplateError: The template refuses the chat.
    """
    rendering = tokenizer.rendering(conversation.messages, conversation.tools)
    text = rendering.upto(len(conversation.messages))
    numbers = tuple(trained_turns(conversation, train_on))
    turns = [
        _turn(rendering, markers, len(conversation.messages), index, text) for index in numbers
    ]
    answers = tuple(turns)
    if train_on is not TrainOn.ALL:
        edges = {edge for turn in turns for edge in turn}
        return TextView(text, answers, answers, tuple(sorted(edges)), numbers)
    trained: list[Span] = []
    position = 0
    for start, end in _untrained_messages(rendering, conversation, text):
        trained.append((position, start))
        position = end
    trained.append((position, len(text)))
    trained = [span for span in trained if span[0] < span[1]]
    edges = {edge for span in (*turns, *trained) for edge in span}
    return TextView(text, tuple(trained), answers, tuple(sorted(edges - {0, len(text)})), numbers)


def _turn(
    rendering: Rendering, markers: TurnMarkers, num_messages: int, index: int, text: str
) -> Span:
    """Characters of one answer, from behind its header through its end token."""
    path = f"messages[{index}]"
    if not index:
        raise UnprovenMask(path, "an answer without anything before it has no prompt")
    prompt = rendering.upto(index, generation_prompt=True)
    upto = text if index + 1 == num_messages else rendering.upto(index + 1)
    if not upto.startswith(prompt):
        raise UnprovenMask(
            path,
            "is rendered by this model's template otherwise than the prompt it is asked with: "
            + _parting(prompt, upto),
            PROMPT_HINT,
        )
    if not text.startswith(upto):
        raise UnprovenMask(
            path,
            "is rendered by this model's template otherwise once turns follow (many drop the "
            f"reasoning of earlier answers): {_parting(upto, text)}",
            LAST_HINT,
        )
    body = upto[len(prompt) :]
    end = body.rfind(markers.end)
    if end < 0 or body[end + len(markers.end) :] != markers.tail:
        raise UnprovenMask(
            path,
            f"is ended by this model's template with {body[-30:]!r}, expected "
            f"{markers.end + markers.tail!r} as behind its other answers",
            "leave such rows out with `data.invalid: drop`, or train a model whose template ends "
            "all answers alike",
        )
    return len(prompt), len(prompt) + end + len(markers.end)


def _untrained_messages(rendering: Rendering, conversation: Conversation, text: str) -> list[Span]:
    """Whole turns, header and tail included, of messages with `train: false`."""
    spans: list[Span] = []
    for index, message in enumerate(conversation.messages):
        if message.train is not False:
            continue
        before = rendering.upto(index) if index else ""
        upto = rendering.upto(index + 1)
        if not (text.startswith(before) and text.startswith(upto)):
            raise UnprovenMask(
                f"messages[{index}]", "is not a stretch of its own in the rendered chat"
            )
        spans.append((len(before), len(upto)))
    return spans


def turns(
    ids: Sequence[int], markers: TurnMarkers, conversation: Conversation
) -> list[tuple[Role, Span]]:
    """What each turn of the chat says: its role and positions from behind the header to the end.

    A header counts as long as the assistant's. Turns behind the end of cut ids are left out.

    Raises:
        UnprovenMask: The ids have more turns than the chat.
    """
    starts = _find_all(ids, markers.core_ids[:1])
    given = conversation.messages[0].role is Role.SYSTEM
    roles = [Role.SYSTEM] * (0 if given else markers.num_default_turns)
    last = -1
    for message, number in zip(
        conversation.messages, _turn_numbers(conversation, markers), strict=True
    ):
        roles += [message.role] if number > last else []
        last = number
    if len(starts) > len(roles):
        raise UnprovenMask(
            "messages", f"{len(roles)} turns in the chat, but {len(starts)} in the ids"
        )
    found: list[tuple[Role, Span]] = []
    for role, (start, stop) in zip(roles, pairwise([*starts, len(ids)]), strict=False):
        ends = _find_all(ids[start:stop], (markers.end_id,))
        end = start + ends[-1] + 1 if ends else stop
        found.append((role, (min(start + len(markers.header_ids), end), end)))
    return found


def by_ids(
    ids: Sequence[int], markers: TurnMarkers, conversation: Conversation, train_on: TrainOn
) -> list[Span]:
    """Derivation B: token positions of the trained spans, from nothing but the ids and the roles.

    Raises:
        UnprovenMask: Headers and assistant messages do not match one to one.
    """
    headers = _find_all(ids, markers.core_ids)
    answers = [i for i, m in enumerate(conversation.messages) if m.role is Role.ASSISTANT]
    if len(headers) != len(answers):
        raise UnprovenMask(
            "messages",
            f"{len(answers)} assistant messages, but this model's template begins {len(headers)} "
            f"answers ({markers.header.strip()})",
            LAST_HINT if len(answers) > 1 else None,
        )
    if train_on is TrainOn.ALL:
        return _complement(_untrained_turns(ids, markers, conversation), len(ids))
    ends = _find_all(ids, (markers.end_id,))
    wanted = set(trained_turns(conversation, train_on))
    spans: list[Span] = []
    for index, position in zip(answers, headers, strict=True):
        if index not in wanted:
            continue
        start = position + len(markers.header_ids)
        if tuple(ids[position:start]) != markers.header_ids:
            raise UnprovenMask(
                f"messages[{index}]", "its header is merged with the answer in the ids"
            )
        behind = bisect_left(ends, start)
        if behind == len(ends):
            raise UnprovenMask(f"messages[{index}]", f"no {markers.end} behind it in the ids")
        spans.append((start, ends[behind] + 1))
    return spans


def _find_all(ids: Sequence[int], needle: Sequence[int]) -> list[int]:
    """Positions of a run of ids; the list's own search is twice as fast as an array is made."""
    found: list[int] = []
    position = -1
    for _ in range(ids.count(needle[0])):
        position = ids.index(needle[0], position + 1)
        if tuple(ids[position : position + len(needle)]) == tuple(needle):
            found.append(position)
    return found


def _untrained_turns(
    ids: Sequence[int], markers: TurnMarkers, conversation: Conversation
) -> list[Span]:
    untrained = [i for i, m in enumerate(conversation.messages) if m.train is False]
    if not untrained:
        return []
    starts = _find_all(ids, markers.core_ids[:1])
    turns = _turn_numbers(conversation, markers)
    given = conversation.messages[0].role is Role.SYSTEM
    num_added = 0 if given else markers.num_default_turns
    if len(starts) != turns[-1] + 1 + num_added or _shares_a_turn(turns, untrained):
        raise UnprovenMask(
            "messages",
            f"{turns[-1] + 1} turns in the chat, but {len(starts) - num_added} in the ids: "
            "`train: false` cannot be located with `train_on: all`",
        )
    edges = [0, *starts[num_added + 1 :], len(ids)]
    return [(edges[turns[i]], edges[turns[i] + 1]) for i in untrained]


def _turn_numbers(conversation: Conversation, markers: TurnMarkers) -> list[int]:
    """For each message the number of its turn; a template may put tool messages into one."""
    numbers: list[int] = []
    for index, message in enumerate(conversation.messages):
        joins = (
            markers.joins_tool_messages
            and index > 0
            and message.role is conversation.messages[index - 1].role is Role.TOOL
        )
        numbers.append(numbers[-1] + (not joins) if numbers else 0)
    return numbers


def _shares_a_turn(turns: Sequence[int], untrained: Sequence[int]) -> bool:
    """Whether a message with `train: false` is only a part of its turn."""
    return any(turns.count(turns[index]) > 1 for index in untrained)


def _complement(spans: Sequence[Span], length: int) -> list[Span]:
    kept: list[Span] = []
    position = 0
    for start, end in (*spans, (length, length)):
        if position < start:
            kept.append((position, start))
        position = end
    return kept


def by_tags(
    template: str, tokenizer: ChatTokenizer, conversation: Conversation, text: str
) -> list[Span]:
    """Derivation C: character ranges inside the `{% generation %}` tags of a user's template.

    Raises:
        TagsDisagree: It renders other text than the model's own template.
        jinja2.TemplateError: It refuses the chat.
    """
    tagged_text, spans = render(
        template, conversation.messages, conversation.tools, tokenizer.variables, with_tags=True
    )
    if tagged_text != text:
        raise TagsDisagree(
            f"renders other text than the model's own template: {_parting(text, tagged_text)}"
        )
    return [span for span in spans if span[0] < span[1]]


def check_tags(
    template: str,
    tokenizer: ChatTokenizer,
    conversation: Conversation,
    view: TextView,
) -> None:
    """Compares C with A: the tags stand around every answer, and around nothing else.

    Raises:
        TagsDisagree: Other text, or other spans, than the model's own template gives.
    """
    tagged = by_tags(template, tokenizer, conversation, view.text)
    for mine in view.answers if tagged else ():
        theirs = min(tagged, key=lambda span: abs(span[0] - mine[0]))
        if mine != theirs:
            raise TagsDisagree(
                f"marks {_clip(view.text[slice(*theirs)])} as trained, expected "
                f"{_clip(view.text[slice(*mine)])} (the answer and the token that ends it)"
            )
    num_answers = sum(message.role is Role.ASSISTANT for message in conversation.messages)
    if len(tagged) != num_answers:
        raise TagsDisagree(f"marks {len(tagged)} stretches as trained, expected {num_answers}")


def _parting(expected: str, got: str) -> str:
    """Where two texts part, with a little of both."""
    limit = min(len(expected), len(got))
    at = next((i for i in range(limit) if expected[i] != got[i]), limit)
    return (
        f"at character {at}, after {_clip(expected[max(0, at - 24) : at])}, expected "
        f"{_clip(expected[at : at + 24])}, got {_clip(got[at : at + 24])}"
    )


def _clip(text: str) -> str:
    shown = unmark(text)
    return repr(shown if len(shown) <= 60 else f"{shown[:28]}…{shown[-28:]}")
