"""Which tokens of a chat are trained, derived in independent ways that must agree.

    text    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n|Hello!<|im_end|>|\n
    by text                                                      └── trained ───┘
    by ids   S  user \n Hi E \n S assistant \n  Hello ! E  \n
                                               └trained┘

A, `answers.by_text`: the chat rendered up to a turn, plus the generation prompt, is what a model is
asked; what the same template puts behind that for the turn, through a stop token, is the answer.
B, `by_ids`: a scan of the finished ids for assistant headers and the stop tokens behind them; where
headers cannot be counted, `by_stops`: the ids before an answer are those of its prompt as a whole
(seen to in `sequences`), and one stop token is in it, at its end.
C: the spans of a user's own template with `{% generation %}` tags, see `generation_tags`.

Where a template renders an earlier answer otherwise than the newest one, a chat is several
sequences, each as inference sees it, each answer trained in one of them:

    one line     P1 A1 P2 A2 P3 A3        each prompt goes on where the last answer ended
    several      P1 A1                    <think>…</think> of A1 is gone from the next prompt
                 P1 a1 p2 A2
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from lorawright.config.schema import TrainOn
from lorawright.masks.turn_markers import TurnMarkers
from lorawright.types import Conversation, Role, Span


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


def turns(
    ids: Sequence[int], markers: TurnMarkers, conversation: Conversation
) -> list[tuple[Role, Span]]:
    """What each turn of the chat says: its role and positions from behind the header to the end.

    A header counts as long as the assistant's. Turns behind the end of cut ids are left out.

    Raises:
        UnprovenMask: The ids have more turns than the chat.
    """
    if not markers.counts_headers:
        raise UnprovenMask("messages", "turns cannot be counted by this model's headers")
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
        ends = _stops(ids[start:stop], markers)
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
        )
    if train_on is TrainOn.ALL:
        return _complement(_untrained_turns(ids, markers, conversation), len(ids))
    ends = _stops(ids, markers)
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


def by_stops(ids: Sequence[int], spans: Sequence[Span], markers: TurnMarkers) -> None:
    """Derivation B where headers cannot be counted, beside the comparison of each prompt's ids.

    Raises:
        UnprovenMask: A stop token is missing, or stands inside an answer.
    """
    for start, end in spans:
        stops = _stops(ids[start:end], markers)
        if stops != [end - start - 1]:
            raise UnprovenMask(
                "messages",
                f"{len(stops)} stop tokens in the ids of an answer, expected one at its end",
            )


def _stops(ids: Sequence[int], markers: TurnMarkers) -> list[int]:
    """Positions of tokens that end a turn."""
    known = markers.stop_ids | {markers.end_id}
    found = [place for token in known for place in _find_all(ids, (token,))]
    return found if len(known) == 1 else sorted(found)


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
