"""How a chat template markers the assistant's turn: learned once per model, by probing it.

    <|im_start|> assistant \\n   The answer .   <|im_end|>   \\n
    └───────── header ───────┘                  └─ end ──┘  └ tail ┘

`header` is what the template writes as generation prompt; `end` is what it puts after every answer,
through the token at which the model stops: one control token, or several in a row (Command R7B).
"""

from __future__ import annotations

from dataclasses import dataclass

import jinja2

from lorawright.errors import TemplateError
from lorawright.masks.time_limit import TimeLimit
from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.types import Message, Role, ToolCall

PROBE = "Zebra 7"
HINT = (
    "take a model whose template renders answers behind its generation prompt and ends them with a "
    "stop token (Qwen2.5, Llama 3, Gemma 3, Granite 4), or put such a chat_template.jinja into a "
    "copy of the model's folder"
)

ADDED_HINT = (
    "it is an added token that is not marked as one of control: in a copy of the model's folder, "
    'write `"special": true` into its entry, and the others of roles, in `added_tokens` of '
    "tokenizer.json"
)


@dataclass(frozen=True, slots=True)
class TurnMarkers:
    """Text and ids around an assistant's turn.

    Attributes:
        header: The generation prompt, such as `<|im_start|>assistant\\n`.
        header_ids: Its ids.
        core_ids: The header's ids without trailing white space, which may merge with an answer.
        end: The control tokens after every answer, such as `<|im_end|>`, through a stop token.
        end_id: The stop token's id.
        tail: What the template writes between `end` and the next turn, such as `\\n`.
        is_new_stop: Whether the model's generation config does not stop at it yet.
        num_default_turns: Turns it puts before a chat that has no system message.
        joins_tool_messages: Whether tool messages in a row stand in one turn.
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


def learn(tokenizer: ChatTokenizer) -> TurnMarkers:
    """Probes the template with a chat of one question and one answer.

    Raises:
        TemplateError: The template has no generation prompt, or no control token ends its answers.
    """
    with TimeLimit() as limit:
        return limit.run(tokenizer.name, lambda: _learn(tokenizer))


def _learn(tokenizer: ChatTokenizer) -> TurnMarkers:
    question = [Message(Role.USER, "Hi")]
    answer = Message(Role.ASSISTANT, PROBE)
    try:
        asked = tokenizer.render(question, None)
        prompt = tokenizer.render(question, None, generation_prompt=True)
        full = tokenizer.render([*question, answer], None)
    except jinja2.TemplateError as error:
        raise _unproven(tokenizer, f"it refuses a question with an answer: {error}") from None
    if not prompt.startswith(asked) or prompt == asked:
        raise _unproven(
            tokenizer,
            "with `add_generation_prompt` it writes no header that an answer starts after",
        )
    header = prompt[len(asked) :]
    if not full.startswith(prompt) or PROBE not in full[len(prompt) :]:
        raise _unproven(
            tokenizer,
            f"an answer does not follow the generation prompt unchanged: the prompt ends with "
            f"{prompt[-30:]!r}, the chat goes on with {_behind(asked, full)!r}",
        )
    after = full[len(prompt) :].partition(PROBE)[2]
    end, end_id = _end(tokenizer, after)
    header_ids, core_ids = tokenizer.encode([header, header.rstrip()])
    if not core_ids or core_ids[0] not in tokenizer.control_ids.values():
        is_added = core_ids[:1] and core_ids[0] in tokenizer.backend.get_added_tokens_decoder()
        raise _unproven(
            tokenizer,
            f"its generation prompt {header!r} does not start with a control token, so text could "
            "pass for one",
            ADDED_HINT if is_added else HINT,
        )
    start_id = core_ids[0]
    return TurnMarkers(
        num_default_turns=tokenizer.encode([asked])[0].count(start_id) - 1,
        joins_tool_messages=_joins_tool_messages(tokenizer, question, start_id),
        header=header,
        header_ids=tuple(header_ids),
        core_ids=tuple(core_ids),
        end=end,
        end_id=end_id,
        is_new_stop=bool(tokenizer.generation_stops) and end_id not in tokenizer.generation_stops,
        tail=after[len(end) :],
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


def _leading_control_token(tokenizer: ChatTokenizer, text: str) -> str | None:
    found = [token for token in tokenizer.control_ids if text.startswith(token)]
    return max(found, key=len, default=None)


def _end(tokenizer: ChatTokenizer, after: str) -> tuple[str, int]:
    """The control tokens right behind an answer, through the first at which the model stops.

    Where it stops at none of them (a base model with a chat template), the first of them: it is
    taught as a new stop token.

    Raises:
        TemplateError: There is no control token, or not behind every answer.
    """
    end, first = "", None
    while (token := _leading_control_token(tokenizer, after[len(end) :])) is not None:
        end, first = end + token, first or token
        token_id = tokenizer.control_ids[token]
        if not tokenizer.stop_ids or token_id in tokenizer.stop_ids:
            return end, token_id
    if first is None:
        raise _unproven(
            tokenizer,
            f"no control token ends an answer, the chat goes on with {after[:40]!r}",
        )
    if _ends_every_answer(tokenizer, first):
        return first, tokenizer.control_ids[first]
    stops = ", ".join(f"`{tokenizer.decode([number])}`" for number in sorted(tokenizer.stop_ids))
    raise TemplateError(
        f"the chat template ends only the last answer with `{first}`, and the model stops at "
        f"{stops} only: it would never stop",
        where=tokenizer.name,
        hint="start from the model's chat version (…-Instruct); or put a chat_template.jinja that "
        "ends every answer with a control token into a copy of its folder",
    )


def _ends_every_answer(tokenizer: ChatTokenizer, token: str) -> bool:
    turns = [Message(Role.USER, "Hi"), Message(Role.ASSISTANT, PROBE)]
    try:
        text = tokenizer.render([*turns, *turns], None)
    except jinja2.TemplateError:
        return False
    return text.count(PROBE + token) == 2


def _behind(asked: str, full: str) -> str:
    return full[len(asked) :][:40] if full.startswith(asked) else full[:40]


def _unproven(tokenizer: ChatTokenizer, why: str, hint: str = HINT) -> TemplateError:
    return TemplateError(
        f"this chat template cannot be trained on, its masks cannot be proven: {why}",
        where=tokenizer.name,
        hint=hint,
    )
