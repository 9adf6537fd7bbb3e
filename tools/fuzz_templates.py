"""Chat templates for `tools/fuzz.py`: the tiny model's own and small ones, with pieces deleted,
doubled, swapped and misspelt, endless, huge. Each is refused in one line, or right: what stands
before an answer is the chat up to it with its generation prompt, the trained stretch is what
follows through a stop token, and nothing that the chat says is missing."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import fuzz_rows
from fuzz_case import Case

PIECE = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.S)
WORD = re.compile(r"'[^'\n]*'|[a-z_]+(?:\.[a-z_]+)*|\d+")
WORDS = (
    "messages", "messages[0]", "m", "m.role", "m.content", "m.content | trim", "tools",
    "loop.first",
    "loop.last", "loop.index0", "add_generation_prompt", "true", "false", "none", "nope",
    "eos_token",
    "'assistant'", "'user'", "'system'", "''", "'\\n'", "'<|im_end|>'", "'<|im_end|>\\n'",
    "'<|im_start|>'", "'<|endoftext|>'", "'x'", "m.content[:3]", "m.content | upper", "m.name",
    "m.reasoning_content", "messages | length", "strftime_now('%H')", "m.content | e",
    "m.content.split('</think>')[-1]", "range(3) | list", "m.content[::-1]", "messages[-1].content",
)  # fmt: skip
PUT_IN = (
    "{{ m.content }}", "{{ ' ' }}", "{{ '\\n' }}", "{{- '' -}}", "{{ 1 / 0 }}", "{{ nope.x }}",
    "{{ raise_exception('no') }}", "{% if loop.last %}{{ 'x' }}{% endif %}",
    "{{ messages | length }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 3000000 }}", "{{ 'a' * 10 ** 13 }}", "{% if not add_generation_prompt %} {% endif %}",
    "{% for a in range(10 ** 9) %}{{ a }}{% endfor %}", "{{ 9 ** 9 ** 9 }}", "{% break %}",
    "{{ '<|im_end|>' }}", "{{ '<|im_start|>assistant\\n' }}", "{% if %}", "{% endfor %}", "{{",
    "{% set m = messages[0] %}", "{{ m }}", "{{ m | tojson }}", "{{ tools }}", "{{ self }}",
    "{% generation %}{{ m.content }}{% endgeneration %}", "{{ '%s' | format(m) }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% if m.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
    "{{ m.content | replace('e', '') }}", "{{ '{}' * 50 }}", "\ud7ff", "\0",
)  # fmt: skip
SMALL = """{%- for m in messages %}HEAD{{ m.role }}SEPBODYTAIL{%- endfor %}
{%- if add_generation_prompt %}HEADassistantSEP{% endif %}"""
BODIES = (
    "{{ m.content }}", "{{ m.content | trim }}", "{{ m.content or '' }}", "{{ m['content'] }}",
    "{% if m.role != 'system' %}{{ m.content }}{% endif %}", "{{ m.content | string }}",
    "{% if m.role == 'assistant' %}{{ ' ' + m.content }}{% else %}{{ m.content }}{% endif %}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}",
    "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}",
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content[-4:] }}{% else %}"
    "{{ m.content }}{% endif %}",
    "{% for line in m.content.split('\\n') %}{{ line }}\n{% endfor %}", "{{ m.content[:20] }}",
)  # fmt: skip
HEADS = ("<|im_start|>", "<|im_start|> ", "[", "<|im_end|><|im_start|>", "\n<|im_start|>", "")
SEPS = ("\n", "", " ", "\n\n", "<|im_start|>", ": ")
TAILS = ("<|im_end|>\n", "<|im_end|>", "<|endoftext|>", "\n", "", "<|im_end|><|endoftext|>\n",
         "{{ eos_token }}", "{% if not loop.last %}<|im_end|>\n{% endif %}")  # fmt: skip


@functools.cache
def tiny() -> Path:
    from lorawright import hub

    return hub.tokenizer_folder("tiny")


def mutated(rng: random.Random) -> str:
    """A template, changed in up to four places."""
    if rng.random() < 0.5:
        source = (tiny() / "chat_template.jinja").read_text(encoding="utf-8")
    else:
        source = SMALL.replace("BODY", rng.choice(BODIES)).replace(
            "HEAD", rng.choice(HEADS[:2] * 3 + HEADS)
        )
        source = source.replace("SEP", rng.choice(SEPS)).replace(
            "TAIL", rng.choice(TAILS[:2] * 3 + TAILS)
        )
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        source = _changed(source, rng)
    return source


def _changed(source: str, rng: random.Random) -> str:
    pieces = list(PIECE.finditer(source))
    if not pieces:
        return rng.choice(PUT_IN)
    one, other = rng.choice(pieces), rng.choice(pieces)
    way = rng.random()
    if way < 0.12:
        return source[: one.start()] + source[one.end() :]
    if way < 0.22:
        return source[: one.end()] + one.group() + source[one.end() :]
    if way < 0.32:
        first, last = sorted((one, other), key=lambda piece: piece.start())
        between = source[first.end() : last.start()]
        if first is last:
            return source
        return (
            source[: first.start()] + last.group() + between + first.group() + source[last.end() :]
        )
    if way < 0.5:
        at = rng.choice([one.start(), one.end()])
        return source[:at] + rng.choice(PUT_IN) + source[at:]
    if way < 0.55:
        at = rng.randrange(len(source))
        return source[:at] + source[at + rng.choice([1, 5]) :]
    words = list(WORD.finditer(one.group()))
    if not words:
        return source
    word = rng.choice(words)
    start = one.start()
    return source[: start + word.start()] + rng.choice(WORDS) + source[start + word.end() :]


def make(folder: Path, rng: random.Random) -> Case:
    """A model's folder with that template, a few plain chats, and `inspect`."""
    model = folder / "model"
    model.mkdir()
    for path in tiny().iterdir():
        if path.suffix == ".json":
            shutil.copy(path, model / path.name)
    source = mutated(rng)
    (model / "chat_template.jinja").write_text(source, encoding="utf-8")
    chats = [fuzz_rows.chat(rng, with_calls=rng.random() < 0.3) for _ in range(3)]
    chats.append({"messages": [{"role": "system", "content": "Be brief."},
                               {"role": "user", "content": "Name two things."},
                               {"role": "assistant", "content": "Air and sea."},
                               {"role": "user", "content": "One more?"},
                               {"role": "assistant",
                               "content": "Earth itself."}], "tools": None})  # fmt: skip
    (folder / "a.jsonl").write_text("".join(
        json.dumps({key: value for key, value in made.items() if value}) + "\n" for made in chats
    ))  # fmt: skip
    data = {"train": "a.jsonl", "max_length": 5_000_000,
            "special_tokens_in_text": rng.choice(["error", "escape"]),
            "invalid": rng.choice(["error", "drop"])}  # fmt: skip
    config = {"model": {"name": str(model)}, "data": data}
    (folder / "c.yaml").write_text(json.dumps(config))

    def agrees(answer: dict[str, Any]) -> list[str]:
        lines = [json.loads(line) for line in answer["out"].split("\n") if line]
        faults = []
        for row, group in itertools.groupby(lines, key=lambda line: line["line"]):
            found = _row(source, chats[row - 1], list(group))
            faults += [f"{fault} (row {row})" for fault in found]
        return faults

    return Case(["inspect", "c.yaml", "--json", "-n", "0"], is_json=False, afterwards=(agrees,))


def _row(source: str, made: dict[str, Any], lines: list[dict[str, Any]]) -> list[str]:
    """What is wrong with a chat's lines of `inspect`, by the template itself."""
    tokenizer = fuzz_rows.reference()
    found = [(one["ids"], *span) for one in lines for span in fuzz_rows.spans(one["trained"])]
    messages = made["messages"]
    if any(message.get("content") is None for message in messages):
        return []  # filled in where a template stumbles over them
    render = functools.partial(
        tokenizer.apply_chat_template, tools=made["tools"], tokenize=False, chat_template=source
    )
    normal, decode = fuzz_rows.normal, tokenizer.decode
    whole = render(messages)
    ids = lines[0]["ids"]
    is_one = len(lines) == 1 and "strftime_now" not in source
    if is_one and normal(decode(ids)) != normal(whole):
        return [f"ids: decode to {decode(ids)[-60:]!r}, not {whole[-60:]!r}"]
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if len(found) != len(answers):
        return [f"spans: {len(found)}, there are {len(answers)} answers"]
    for number, (ids, start, end) in zip(answers, found, strict=True):
        prompt, span = render(messages[:number], add_generation_prompt=True), decode(ids[start:end])
        if normal(decode(ids[:start])) != normal(prompt):
            return [f"prompt: of {number}: {decode(ids[:start])[-60:]!r}, not {prompt[-60:]!r}"]
        if decode(ids[end - 1 : end]) not in ("<|im_end|>", "<|endoftext|>"):
            return [f"stop: {number} ends with {decode(ids[end - 1 : end])!r}"]
        if not _says(span, normal(messages[number]["content"])):
            return [
                f"missing: answer {number} {messages[number]['content'][:40]!r} in {span[:60]!r}"
            ]
    shown = normal(whole) + "".join(normal(decode(one["ids"])) for one in lines)
    for number, message in enumerate(messages):
        if not _says(shown, normal(message["content"])):
            return [f"missing: message {number} {message['content'][:40]!r}"]
    return []


def _says(text: str, content: str) -> bool:
    """Whether a text says a content; templates may change white space, quotes and escapes."""
    plain = [
        re.sub(r"\W|[nrtbf]|amp|lt|gt|u[0-9a-f]{4}|_|34|39", "", t.lower()) for t in (text, content)
    ]
    return plain[1] in plain[0]
