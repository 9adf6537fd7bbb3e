"""Valid chats with odd content for `tools/fuzz.py`, in all formats, held against Transformers' own
rendering: ids decode to it, what stands before an answer is what inference is given, and every
trained stretch says its answer and ends with the model's stop token."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_case import Case, says_something

PIECES = (
    "Hi", "你好，", "😀", "👩‍👩‍👧", "e\u0301", "\u0301", "\n", "\n\n", " ", "  ", "\t", "\r\n",
    "\u3000",
    "\ufffd", "<|im_", "end|>", "assistant", "<|im_start|", "<tool_call>", "</tool_call>", "\u200b",
    "{{ x }}", "{% if %}", "<think>", "</think>", "\u202e", "\ufeff", "\x01", "9" * 60, "a" * 3000,
    "[/b]", "\\u0041", "&lt;", '"', "'", "\\", "1e400", "null", "\u2028", "\x85", "\U000e0041",
)  # fmt: skip
CONTROL = ("<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "\U000f0000", "\U000f0001")
NUMBERS = (0, -1, 2**31, 2**53, 2**63, 10**30, 0.1, 1e-9, 1e300, -0.0, 3.0, True, False, None)
NAMES = ("f", "get_weather", "天气", "a.b-c", "x" * 70)
END = "<|im_end|>"
Chat = dict[str, Any]  # messages as Transformers takes them, and tools


@functools.cache
def reference() -> Any:
    """Transformers' tokenizer of the tiny model."""
    from transformers import AutoTokenizer

    from lorawright import hub

    return AutoTokenizer.from_pretrained(hub.tokenizer_folder("tiny"))


def text(rng: random.Random, control: float = 0.01) -> str:
    """Up to five pieces, rarely none, rarely a control token among them."""
    pieces = [rng.choice(PIECES) for _ in range(rng.choice([0, 1, 1, 2, 3, 5]))]
    if rng.random() < control:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice(CONTROL))
    return "".join(pieces)


def said(rng: random.Random) -> str:
    return text(rng) + rng.choice(["yes", "是", "7", "."])


def value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value, as in the arguments of a call."""
    kind = rng.random()
    if depth < 3 and kind < 0.15:
        return {said(rng): value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    if depth < 3 and kind < 0.3:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return text(rng) if kind < 0.7 else rng.choice(NUMBERS)


def arguments(rng: random.Random) -> dict[str, Any]:
    return {said(rng): value(rng) for _ in range(rng.choice([0, 1, 1, 2]))}


def chat(rng: random.Random, *, with_calls: bool = True) -> Chat:
    """A chat whose roles follow each other as they may."""
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": text(rng)})
    has_tools = with_calls and rng.random() < 0.4
    for _ in range(rng.choice([1, 1, 2, 4])):
        messages.append({"role": "user", "content": text(rng) or "?"})
        if has_tools and rng.random() < 0.6:
            calls = [_call(rng) for _ in range(rng.choice([1, 1, 2]))]
            content = {"content": text(rng)} if rng.random() < 0.5 else {}
            messages.append({"role": "assistant", **content, "tool_calls": calls})
            messages += [{"role": "tool", "content": text(rng)} for _ in calls]
        messages.append({"role": "assistant", "content": said(rng)})
    tools = [_tool(rng) for _ in range(rng.randint(1, 2))] if has_tools else None
    return {"messages": messages, "tools": tools}


def _call(rng: random.Random) -> dict[str, Any]:
    function = {"name": rng.choice(NAMES), "arguments": arguments(rng)}
    return {"type": "function", "function": function}


def _tool(rng: random.Random) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {said(rng): {"type": "string"}}}
    function = {"name": rng.choice(NAMES), "description": text(rng), "parameters": parameters}
    return {"type": "function", "function": function}


def _as_messages(made: Chat, rng: random.Random) -> dict[str, Any]:
    messages = [_odd_shape(dict(message), rng) for message in made["messages"]]
    row: dict[str, Any] = {"messages": messages}
    if made["tools"] is not None:
        row["tools"] = made["tools"] if rng.random() < 0.5 else json.dumps(made["tools"])
    return row


def _odd_shape(message: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The same message, written as others write it."""
    content = message.get("content")
    if content is not None and rng.random() < 0.15:
        at = rng.randint(0, len(content))
        parts = [{"type": "text", "text": part} for part in (content[:at], content[at:])]
        message["content"] = parts
    if content is None and rng.random() < 0.5:
        message["content"] = None
    if message.get("tool_calls") and rng.random() < 0.5:
        message["tool_calls"] = [
            {"type": "function", "function": {**function, "arguments": json.dumps(given)}}
            for call in message["tool_calls"]
            for function in [call["function"]]
            for given in [function["arguments"]]
        ]
    if message["role"] == "assistant" and rng.random() < 0.03:
        message[rng.choice(["reasoning_content", "thinking"])] = said(
            rng
        )  # tiny does not render it
    return message


def _as_sharegpt(made: Chat, rng: random.Random) -> dict[str, Any]:
    roles = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    turns: list[dict[str, Any]] = []
    for message in made["messages"]:
        turns.append({"from": roles[message["role"]], "value": message["content"]})
    return {"conversations": turns}


def _as_prompt(made: Chat, rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"prompt": made["messages"][:-1], "completion": made["messages"][-1:]}
    made["messages"] = [m for m in made["messages"] if m["role"] != "system"][:2]
    question, answer = made["messages"]
    return {"prompt": question["content"], "completion": answer["content"]}


def _as_alpaca(made: Chat, rng: random.Random) -> dict[str, Any]:
    system = [m for m in made["messages"] if m["role"] == "system"]
    rest = [m for m in made["messages"] if m["role"] != "system"]
    pairs = [(q["content"], a["content"]) for q, a in zip(rest[::2], rest[1::2], strict=True)]
    row: dict[str, Any] = {"instruction": pairs[-1][0], "output": pairs[-1][1]}
    if len(pairs) > 1:
        row["history"] = pairs[:-1]
    if system and system[0]["content"]:
        row["system"] = system[0]["content"]
    else:
        made["messages"] = rest
    return row


FORMATS: dict[str, Callable[[Chat, random.Random], dict[str, Any]]] = {
    "messages": _as_messages,
    "sharegpt": _as_sharegpt,
    "prompt_completion": _as_prompt,
    "alpaca": _as_alpaca,
}


def make(folder: Path, rng: random.Random) -> Case:
    """Rows of one format, through `inspect --json -n 0`."""
    name = rng.choice(["messages", "messages", *FORMATS])
    chats = [chat(rng, with_calls=name == "messages") for _ in range(rng.choice([1, 3, 12]))]
    rows = [FORMATS[name](made, rng) for made in chats]
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    (folder / "a.jsonl").write_bytes("\n".join(lines).encode())
    policy = rng.choice(["error", "escape"])
    train_on = rng.choice(["assistant", "last_assistant"])
    last = train_on == "last_assistant" or name == "prompt_completion"
    data = {"train": "a.jsonl", "special_tokens_in_text": policy, "train_on": train_on,
            "max_length": 100_000}  # fmt: skip
    config = {"model": {"name": "tiny"}, "data": data}
    (folder / "c.yaml").write_text(json.dumps(config))

    def agrees(answer: dict[str, Any]) -> list[str]:
        return compare(chats, answer, last=last)

    return Case(["inspect", "c.yaml", "--json", "-n", "0"], is_json=False, afterwards=(agrees,))


def compare(chats: list[Chat], answer: dict[str, Any], *, last: bool) -> list[str]:
    """What of the lines that `inspect` has printed is not as Transformers renders the chat."""
    faults = says_something(answer)
    lines = [json.loads(line) for line in answer["out"].split("\n") if line]
    if answer["code"] == 0 and sorted(line["line"] for line in lines) != list(
        range(1, len(chats) + 1)
    ):
        faults.append(f"rows: {len(chats)} given, {len(lines)} shown, exit code 0")
    for line in lines:
        made = chats[line["line"] - 1]
        faults += [f"{fault} (row {line['line']})" for fault in _row(made, line, last=last)]
    return faults


def spans(trained: list[int]) -> list[tuple[int, int]]:
    """Ranges of ones."""
    flags = [0, *trained, 0]
    edges = [at for at in range(len(trained) + 1) if flags[at] != flags[at + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _row(made: Chat, line: dict[str, Any], *, last: bool) -> list[str]:
    tokenizer = reference()
    ids, found = line["ids"], spans(line["trained"])
    render = functools.partial(tokenizer.apply_chat_template, tools=made["tools"], tokenize=False)
    whole = render(made["messages"])
    if normal(tokenizer.decode(ids)) != normal(whole):
        return [f"ids: {differing(normal(tokenizer.decode(ids)), normal(whole))}"]
    answers = [n for n, m in enumerate(made["messages"]) if m["role"] == "assistant"]
    answers = answers[-1:] if last else answers
    if len(found) != len(answers):
        return [f"spans: {len(found)}, there are {len(answers)} answers"]
    for number, (start, end) in zip(answers, found, strict=True):
        prompt = render(made["messages"][:number], add_generation_prompt=True)
        if normal(tokenizer.decode(ids[:start])) != normal(prompt):
            return [f"prompt: of message {number} ends {tokenizer.decode(ids[:start])[-60:]!r}"]
        if tokenizer.decode(ids[end - 1 : end]) != END:
            return [f"stop: message {number} ends with {tokenizer.decode(ids[end - 1 : end])!r}"]
        upto = render(made["messages"][: number + 1]).removesuffix("\n")
        if normal(tokenizer.decode(ids[start:end])) != normal(upto[len(prompt) :]):
            return [f"answer: {tokenizer.decode(ids[start:end])[:60]!r} of message {number}"]
    return []


def differing(found: str, wanted: str) -> str:
    """Where two texts part."""
    at = next((n for n, pair in enumerate(zip(found, wanted, strict=False)) if len({*pair}) > 1), 0)
    at = at or min(len(found), len(wanted))
    return (
        f"at {at} {found[max(0, at - 30) : at + 30]!r}, not {wanted[max(0, at - 30) : at + 30]!r}"
    )


def normal(given: str) -> str:
    """A text as the tokenizer takes it."""
    backend = reference().backend_tokenizer
    return str(backend.normalizer.normalize_str(given)) if backend.normalizer else given
