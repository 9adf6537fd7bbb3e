"""How a chat template marks the assistant's turn: learned once per model, by probing it.

    <|im_start|> assistant \\n   The answer .   <|im_end|>   \\n
    └───────── header ───────┘                  └─ end ──┘

`header` is what the template writes as generation prompt, if anything; `end` is what stands behind
every answer, through the token at which the model stops. Most templates write it with the answer;
where the next turn's first token is the stop (GLM, Apertus), it is read off a chat that goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import jinja2

from lorawright.errors import TemplateError
from lorawright.masks.special_tokens import START
from lorawright.masks.texts import num_common
from lorawright.masks.time_limit import TimeLimit
from lorawright.masks.tokenizer import PROBE, ChatTokenizer
from lorawright.types import REASONING, Message, Role, ToolCall

THOUGHT, CALLED = "Lynx 3", "quagga_5"
HINT = (
    "take a model whose template renders answers behind its generation prompt and ends them with a "
    "stop token (Qwen2.5, Llama 3, Gemma 3, Granite 4), or put such a chat_template.jinja into a "
    "copy of the model's folder"
)
DROPS_HINT = (
    "this template cannot say an answer as the model is asked for it (DeepSeek-R1's distills and "
    "QwQ are such); put a chat_template.jinja that keeps the newest answer's reasoning into a copy "
    "of the model's folder"
)


@dataclass(frozen=True, slots=True)
class TurnMarkers:
    """Text and ids around an assistant's turn.

    Attributes:
        header: The generation prompt, such as `<|im_start|>assistant\\n`; may be empty.
        header_ids: Its ids.
        core_ids: The header's ids without trailing white space, which may merge with an answer.
        end: What stands behind every answer, such as `<|im_end|>`, through a stop token.
        end_id: The stop token's id.
        is_new_stop: Whether the model's generation config does not stop at it yet.
        tail: What the template writes between `end` and the next turn, such as `\n`.
        num_default_turns: Turns it puts before a chat that has no system message.
        joins_tool_messages: Whether tool messages in a row stand in one turn.
        counts_headers: Whether each answer of the ids has one header, that nothing else has.
        stops: Tokens at which the model stops, text and id; answers may end with any of them.
        follow: What is missing of `end` in a chat that ends with an answer; mostly nothing.
        follow_call: The same behind an answer that calls tools.
        renders_reasoning: Whether a newest answer's `reasoning_content` is rendered.
        role_tokens: Added tokens that turns begin with and that are not marked as special.
    """

    header: str
    header_ids: tuple[int, ...]
    core_ids: tuple[int, ...]
    end: str
    end_id: int
    is_new_stop: bool
    tail: str
    num_default_turns: int
    joins_tool_messages: bool
    counts_headers: bool
    stops: tuple[tuple[str, int], ...]
    follow: str = ""
    follow_call: str = ""
    renders_reasoning: bool = False
    role_tokens: tuple[str, ...] = ()

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset(number for _, number in self.stops)

    def find_stop(self, text: str) -> re.Match[str] | None:
        """The first stop token of a rendered text; spelled by an author, it does not count."""
        return _stop_pattern(self.stops).search(text)


@cache
def _stop_pattern(stops: tuple[tuple[str, int], ...]) -> re.Pattern[str]:
    texts = "|".join(re.escape(token) for token, _ in stops)
    return re.compile(f"(?<!{START})(?:{texts})")


def learn(tokenizer: ChatTokenizer) -> TurnMarkers:
    """Probes the template with a chat of one question and one answer.

    Raises:
        TemplateError: An answer does not stand behind the prompt, or nothing ends it.
    """
    with TimeLimit() as limit:
        return limit.run(tokenizer.name, lambda: _learn(tokenizer))


def _learn(tokenizer: ChatTokenizer) -> TurnMarkers:
    question = [Message(Role.USER, "Hi")]
    try:
        asked = tokenizer.render(question, None)
        prompt = tokenizer.render(question, None, generation_prompt=True)
        answer, full = _answered(tokenizer, question, prompt)
    except jinja2.TemplateError as error:
        raise _unproven(tokenizer, f"it refuses a question with an answer: {error}") from None
    header = prompt[num_common(asked, prompt) :]
    after = full[len(prompt) :].rpartition(PROBE)[2]
    end, end_id, follow = _end(tokenizer, [*question, answer], after)
    header_ids, core_ids = tokenizer.encode([header, header.rstrip()])
    added = tokenizer.added_ids
    counts = _counts(tokenizer, [*question, answer], core_ids)
    start_id = core_ids[0] if counts else -1
    known = {*tokenizer.stop_ids, end_id}
    return TurnMarkers(
        num_default_turns=tokenizer.encode([asked])[0].count(start_id) - 1 if counts else 0,
        joins_tool_messages=counts and _joins_tool_messages(tokenizer, question, start_id),
        header=header,
        header_ids=tuple(header_ids),
        core_ids=tuple(core_ids),
        end=end,
        end_id=end_id,
        is_new_stop=bool(tokenizer.generation_stops) and end_id not in tokenizer.generation_stops,
        tail=after[len(end) :] if not follow else "",
        counts_headers=counts,
        stops=tuple((token, number) for token, number in added.items() if number in known),
        follow=follow,
        follow_call=_follow_of_call(tokenizer, question, follow) if follow else "",
        renders_reasoning=_renders(tokenizer, [*question, _thinking()], THOUGHT),
        role_tokens=tuple(_role_tokens(tokenizer, asked, header)),
    )


def _thinking() -> Message:
    return Message(Role.ASSISTANT, PROBE, extra={REASONING: THOUGHT})


def _answered(
    tokenizer: ChatTokenizer, question: list[Message], prompt: str
) -> tuple[Message, str]:
    """An answer that goes on where the prompt ends, with reasoning only if it must; and its chat.

    Raises:
        TemplateError: There is none.
    """
    for answer in (Message(Role.ASSISTANT, PROBE), _thinking()):
        full = tokenizer.render([*question, answer], None)
        if full.startswith(prompt) and PROBE in full[len(prompt) :]:
            return answer, full
    raise _unproven(
        tokenizer,
        f"an answer does not follow the generation prompt unchanged: the prompt ends with "
        f"{prompt[-30:]!r}, the chat goes on with {full[num_common(prompt, full) :][:40]!r}",
        DROPS_HINT if "think" in prompt[-30:] else HINT,
    )


def _counts(tokenizer: ChatTokenizer, turns: list[Message], core_ids: list[int]) -> bool:
    """Whether answers can be counted by their headers: probed with two of them."""
    if not core_ids or core_ids[0] not in tokenizer.added_ids.values():
        return False
    try:
        (ids,) = tokenizer.encode([tokenizer.render([*turns, *turns], None)])
    except jinja2.TemplateError:
        return False
    size = len(core_ids)
    return sum(ids[at : at + size] == core_ids for at in range(len(ids))) == 2


def _role_tokens(tokenizer: ChatTokenizer, asked: str, header: str) -> list[str]:
    """A header may go on with `<think>`, which texts may spell."""
    plain = tokenizer.added_ids.keys() - tokenizer.control_ids.keys()
    return sorted(
        token for token in plain if token.strip() and (token in asked or header.startswith(token))
    )


def _joins_tool_messages(tokenizer: ChatTokenizer, question: list[Message], start_id: int) -> bool:
    """Renders one and two results of a call; a template without tools joins nothing."""
    call = Message(Role.ASSISTANT, None, (ToolCall("f", {}),))
    result = Message(Role.TOOL, PROBE)
    try:
        one = tokenizer.render([*question, call, result], None)
        two = tokenizer.render([*question, call, result, result], None)
    except jinja2.TemplateError:
        return False
    num_one, num_two = (ids.count(start_id) for ids in tokenizer.encode([one, two]))
    return num_one == num_two


def _renders(tokenizer: ChatTokenizer, messages: list[Message], text: str) -> bool:
    try:
        return text in tokenizer.render(messages, None)
    except jinja2.TemplateError:
        return False


def _leading_token(tokenizer: ChatTokenizer, text: str) -> str | None:
    found = [token for token in tokenizer.added_ids if text.startswith(token)]
    return max(found, key=len, default=None)


def _end(tokenizer: ChatTokenizer, turns: list[Message], after: str) -> tuple[str, int, str]:
    """What ends an answer: its text, the stop token's id, what of it only the next turn writes.

    Where the model stops at nothing behind the answer (a base model with a chat template), the
    first control token behind every answer: it is taught as a new stop token.

    Raises:
        TemplateError: There is no control token, or not behind every answer.
    """
    longer = _going_on(tokenizer, turns)
    for text in (after, longer):
        found = _first_stop(tokenizer, text)
        if found is not None:
            end, end_id = found
            return end, end_id, "" if text is after else end[len(after) :]
    first = _leading_token(tokenizer, after)
    if first is None:
        raise _unproven(
            tokenizer, f"no control token ends an answer, the chat goes on with {after[:40]!r}"
        )
    if longer.startswith(first):
        return first, tokenizer.added_ids[first], ""
    stops = ", ".join(f"`{tokenizer.decode([number])}`" for number in sorted(tokenizer.stop_ids))
    raise TemplateError(
        f"the chat template ends only the last answer with `{first}`, and the model stops at "
        f"{stops} only: it would never stop",
        where=tokenizer.name,
        hint="start from the model's chat version (…-Instruct); or put a chat_template.jinja that "
        "ends every answer with a control token into a copy of its folder",
    )


def _first_stop(tokenizer: ChatTokenizer, text: str) -> tuple[str, int] | None:
    """The tokens and white space behind an answer, through the first at which the model stops."""
    end = ""
    while True:
        end += text[len(end) : len(text) - len(text[len(end) :].lstrip())]
        token = _leading_token(tokenizer, text[len(end) :])
        if token is None:
            return None
        end += token
        token_id = tokenizer.added_ids[token]
        if token_id in tokenizer.stop_ids or not tokenizer.stop_ids:
            return end, token_id


def _going_on(tokenizer: ChatTokenizer, turns: list[Message]) -> str:
    """What stands behind the first answer where the chat goes on; nothing if that is refused."""
    try:
        text = tokenizer.render([*turns, Message(Role.USER, "Hi")], None)
    except jinja2.TemplateError:
        return ""
    return text.partition(PROBE)[2]


def _follow_of_call(tokenizer: ChatTokenizer, question: list[Message], otherwise: str) -> str:
    """What of an end only a tool's result writes, behind an answer that calls tools."""
    call = Message(Role.ASSISTANT, None, (ToolCall(CALLED, {}),))
    try:
        full = tokenizer.render([*question, call], None)
        longer = tokenizer.render([*question, call, Message(Role.TOOL, PROBE)], None)
    except jinja2.TemplateError:
        return otherwise
    if not longer.startswith(full):
        return otherwise
    found = _first_stop(tokenizer, longer[len(full) :])
    return otherwise if found is None else found[0]


def _unproven(tokenizer: ChatTokenizer, why: str, hint: str = HINT) -> TemplateError:
    return TemplateError(
        f"this chat template cannot be trained on, its masks cannot be proven: {why}",
        where=tokenizer.name,
        hint=hint,
    )
