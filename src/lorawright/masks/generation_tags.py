"""Chat templates with `{% generation %}` tags: made from the model's own template, and removed.

The model's template stands inside a macro, untouched. Around it, derivation A in Jinja: what the
template renders after an answer's generation prompt, through the token that ends the answer, is
put between the tags. It renders the same text by construction; whoever uses it checks that it does.

A user's own template with tags is a third derivation of the masks, C: `check`.

Transformers alone knows these tags. Where other programs read a template, `{% if true %}` stands in
their place: it opens and closes a block with the same trimming of white space, so that the text
stays equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorawright.masks.answers import ChatView
from lorawright.masks.texts import clip, parting
from lorawright.masks.tokenizer import ChatTokenizer, render
from lorawright.masks.turn_markers import TurnMarkers
from lorawright.types import Conversation, Message, Role, Span

TAGGED = """\
{#- The model's own template is the macro; what follows it marks the answers. -#}
{% macro rendered(messages, add_generation_prompt) %}@TEMPLATE@{% endmacro %}
{%- set done = namespace(length=0) -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{%- set prompt = rendered(messages[:loop.index0], true) -%}
{%- set answer = rendered(messages[:loop.index], false)[prompt | length:] -%}
{%- set trained = answer[:answer.rfind(@END@) + @LENGTH@] -%}
{{- prompt[done.length:] -}}
{%- generation -%}{{- trained -}}{%- endgeneration -%}
{%- set done.length = (prompt | length) + (trained | length) -%}
{%- endif -%}
{%- endfor -%}
{{- rendered(messages, add_generation_prompt)[done.length:] -}}
"""


def tagged(tokenizer: ChatTokenizer, markers: TurnMarkers) -> str:
    """The tokenizer's template with tags around every answer and the token that ends it."""
    template, with_tools = tokenizer.template, tokenizer.tool_template
    if with_tools != template:
        template = f"{{% if tools %}}{with_tools}{{% else %}}{template}{{% endif %}}"
    return (
        TAGGED.replace("@END@", repr(markers.end), 1)
        .replace("@LENGTH@", str(len(markers.end)), 1)
        .replace("@TEMPLATE@", template, 1)
    )


TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


def plain(template: str) -> str:
    """The template without generation tags; one that has none comes back as it is."""
    return TAG.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}", template)


def remove_tags(folder: Path) -> None:
    """Rewrites the templates in a folder that is about to be handed on, where they have tags."""
    for path in [*folder.glob("*.jinja"), *folder.glob("*/*.jinja")]:
        source = path.read_text(encoding="utf-8")
        if plain(source) != source:
            path.write_text(plain(source), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = folder / name
        if path.is_file() and TAG.search(path.read_text(encoding="utf-8")):
            config = json.loads(path.read_text(encoding="utf-8"))
            config["chat_template"] = _plain_all(config["chat_template"])
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _plain_all(found: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
    if isinstance(found, str):
        return plain(found)
    return [{**entry, "template": plain(entry["template"])} for entry in found]


class TagsDisagree(ValueError):
    """The user's template with generation tags is not the model's template; ends its use."""


def check(
    template: str, tokenizer: ChatTokenizer, conversation: Conversation, view: ChatView
) -> None:
    """Compares derivation C with A: tags stand around every answer, and around nothing else.

    Args:
        template: The user's, with tags.
        tokenizer: The model's.
        conversation: The row.
        view: Derivation A of it.

    Raises:
        TagsDisagree: Other text, or other spans, than the model's own template gives.
        jinja2.TemplateError: It refuses the chat.
    """
    if len(view.sequences) == 1 and view.sequences[0].is_whole:
        tagged = _tagged_spans(template, tokenizer, conversation, view.text)
        _compare(tagged, view, conversation.messages)
        return
    for number, target in view.targets.items():
        upto = replace(conversation, messages=conversation.messages[: number + 1])
        text = tokenizer.rendering(upto.messages, upto.tools, upto.variables).upto(number + 1)
        spans = _tagged_spans(template, tokenizer, upto, text)
        marked = text[slice(*spans[-1])] if spans else ""
        # the stop token may be the next turn's, which is not there yet
        if not marked or not target.startswith(marked) or not text.endswith(marked):
            raise TagsDisagree(_marks(marked, target))


def _tagged_spans(
    template: str, tokenizer: ChatTokenizer, conversation: Conversation, text: str
) -> list[Span]:
    """Character ranges inside the tags."""
    tagged_text, spans = render(
        template,
        conversation.messages,
        conversation.tools,
        {**tokenizer.variables, **conversation.variables},
        with_tags=True,
    )
    if tagged_text != text:
        raise TagsDisagree(
            f"renders other text than the model's own template: {parting(text, tagged_text)}"
        )
    return [span for span in spans if span[0] < span[1]]


def _compare(tagged: list[Span], view: ChatView, messages: Sequence[Message]) -> None:
    (whole,) = view.sequences
    for mine in whole.answers if tagged else ():
        theirs = min(tagged, key=lambda span: abs(span[0] - mine[0]))
        if mine != theirs:
            raise TagsDisagree(_marks(view.text[slice(*theirs)], view.text[slice(*mine)]))
    num_answers = sum(message.role is Role.ASSISTANT for message in messages)
    if len(tagged) != num_answers:
        raise TagsDisagree(f"marks {len(tagged)} stretches as trained, expected {num_answers}")


def _marks(theirs: str, mine: str) -> str:
    return (
        f"marks {clip(theirs)} as trained, expected {clip(mine)} (the answer and the token that "
        "ends it)"
    )
