"""A template with `{% generation %}` tags, made from the model's own template.

The model's template stands inside a macro, untouched. Around it, derivation A in Jinja: what the
template renders after an answer's generation prompt, through the token that ends the answer, is
put between the tags. It renders the same text by construction; whoever uses it checks that it does.
"""

from __future__ import annotations

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
