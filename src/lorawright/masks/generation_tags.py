"""Chat templates with `{% generation %}` tags: made from the model's own template, and removed.

The model's template stands inside a macro, untouched. Around it, derivation A in Jinja: what the
template renders after an answer's generation prompt, through the token that ends the answer, is
put between the tags. It renders the same text by construction; whoever uses it checks that it does.

Transformers alone knows these tags. Where other programs read a template, `{% if true %}` stands in
their place: it opens and closes a block with the same trimming of white space, so that the text
stays equal.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from lorawright.masks.tokenizer import ChatTokenizer
from lorawright.masks.turn_markers import TurnMarkers

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
