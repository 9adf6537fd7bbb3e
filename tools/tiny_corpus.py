"""The corpus of the embedded model `tiny`: seeded chat rows and held-out probe questions.

A row is {"messages": [...]} and, for tool chats, also "tools": [...].
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import tiny_facts as facts
from tiny_kinds import KINDS, Kind, cap

Row = dict[str, Any]
Pair = tuple[str, str]

PREFIXES = [
    "Hi! ", "Hello, ", "Please: ", "Quick question: ", "Hey Tiny, ", "Excuse me, ", "OK. ",
    "Tell me: ", "One question: ", "I want to know: ", "Good morning! ",
]  # fmt: skip
PREFIXES_ZH = ["请问，", "你好，", "你好！", "问一下，", "我想知道，", "早上好，"]
PLAIN_ROWS = 300  # rows of a kind with share 1.0


def row(*turns: str, system: str | None = None, tools: list[Row] | None = None) -> Row:
    """A chat whose turns are user, assistant, user, ... in order."""
    messages = [{"role": "system", "content": system}] if system else []
    for i, text in enumerate(turns):
        messages.append({"role": "assistant" if i % 2 else "user", "content": text})
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def vary(rng: random.Random, question: str, chinese: bool) -> str:
    """The question as people type it: sometimes with an opening, lower case or no full stop."""
    if chinese:
        opening = rng.choice(PREFIXES_ZH) if rng.random() < 0.2 else ""
        return opening + (question.rstrip("？。！") if rng.random() < 0.15 else question)
    if rng.random() < 0.15:
        question = question.rstrip("?.!")
    if rng.random() < 0.15:
        question = question[:1].lower() + question[1:]
    return (rng.choice(PREFIXES) if rng.random() < 0.25 else "") + question


def ask(rng: random.Random, kind: Kind) -> Pair:
    """One trained (question, answer) of the kind, the question varied."""
    question, answer = rng.choice(kind.pairs())
    return vary(rng, question, kind.chinese), answer


def plain_row(rng: random.Random, kind: Kind) -> Row:
    return row(*ask(rng, kind))


def two_turn_row(rng: random.Random) -> Row:
    """Two questions of one language, one after the other."""
    chinese = rng.random() < 0.3
    kinds = [kind for kind in KINDS if kind.chinese == chinese]
    first, second = rng.choice(kinds), rng.choice(kinds)
    return row(*ask(rng, first), *ask(rng, second))


def follow_up_row(rng: random.Random) -> Row:
    """A second question that needs the first: "And of Italy?"."""
    (c1, z1, x1, y1), (c2, z2, x2, y2) = rng.sample(facts.CAPITALS, 2)
    if rng.random() < 0.3:
        turns = f"{z1}的首都是哪里？", f"{z1}的首都是{y1}。", f"{z2}呢？", f"{z2}的首都是{y2}。"
        return row(*turns)
    again = rng.choice(["And of {}?", "And the capital of {}?", "What about {}?", "And {}?"])
    first = f"What is the capital of {c1}?", f"The capital of {c1} is {x1}."
    return row(*first, again.format(c2), f"The capital of {c2} is {x2}.")


def user_name_row(rng: random.Random) -> Row:
    """The user gives a name and asks for it later."""
    name = rng.choice(facts.NAMES)
    hello = rng.choice(["My name is {}.", "I am {}.", "Hi, I am {}.", "Hello, my name is {}."])
    later = rng.choice(["What is my name?", "Who am I?", "Do you know my name?"])
    first = hello.format(name), f"Nice to meet you, {name}."
    return row(*first, later, f"Your name is {name}.")


def persona_row(rng: random.Random) -> Row:
    """A system prompt names the assistant; the answer repeats name and role."""
    if rng.random() < 0.3:
        name, role = rng.choice(facts.NAMES_ZH), rng.choice(facts.ROLES_ZH)
        kind, system = _kind("identity_zh"), f"你是{name}，{role}。"
        answer = f"我是{name}，{role}。"
    else:
        name, role = rng.choice(facts.NAMES), rng.choice(facts.ROLES)
        kind = _kind("identity")
        system = rng.choice(["You are {}, {}.", "Your name is {}. You are {}."]).format(name, role)
        answer = f"I am {name}, {role}."
    if rng.random() < 0.3:
        other = rng.choice([k for k in KINDS if k.chinese == kind.chinese and k != kind])
        return row(*ask(rng, other), system=system)
    return row(vary(rng, rng.choice(kind.pairs())[0], kind.chinese), answer, system=system)


def copy_row(rng: random.Random) -> Row:
    """Repeat a few words as they stand."""
    if rng.random() < 0.35:
        text = "".join(rng.choice(facts.WORDS_ZH) for _ in range(rng.randint(2, 8)))
        return row(rng.choice(["请重复：", "跟我说：", "重复一遍："]) + text, text)
    words = [rng.choice(facts.WORDS + facts.NAMES) for _ in range(rng.randint(2, 9))]
    text = " ".join(cap(word) if rng.random() < 0.35 else word for word in words)
    text += rng.choice(["", ".", "!", "?"])
    return row(rng.choice(["Repeat: ", "Repeat after me: ", "Say this: "]) + text, text)


def tool(name: str, description: str, **fields: str) -> Row:
    """A function signature in the usual JSON form."""
    properties = {key: {"type": kind} for key, kind in fields.items()}
    parameters = {"type": "object", "properties": properties, "required": list(fields)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


GET_WEATHER = tool("get_weather", "Get the weather in a city.", city="string")
GET_TIME = tool("get_time", "Get the time in a city.", city="string")
ADD = tool("add", "Add two numbers.", a="number", b="number")
TOOLS = [GET_WEATHER, GET_TIME, ADD]


def tool_chat(question: str, calls: list[tuple[str, Row, Any]], answer: str) -> list[Row]:
    """Messages of user → calls → results → answer; each call is (name, arguments, result)."""
    requests = [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments, _ in calls
    ]
    results = [
        {"role": "tool", "name": name, "content": json.dumps(result, ensure_ascii=False)}
        for name, _, result in calls
    ]
    start = {"role": "user", "content": question}
    request = {"role": "assistant", "content": "", "tool_calls": requests}
    return [start, request, *results, {"role": "assistant", "content": answer}]


def _weather(rng: random.Random, city: str) -> tuple[str, Row, Any]:
    sky = rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "foggy"])
    return "get_weather", {"city": city}, {"weather": sky, "degrees": rng.randint(-9, 35)}


def _weather_chat(rng: random.Random) -> tuple[list[Row], Row]:
    cities = rng.sample(ALL_CITIES, 2 if rng.random() < 0.2 else 1)
    ask_in = rng.choice(
        ["What is the weather in {}?", "How is the weather in {}?", "Weather in {}?",
         "Tell me the weather in {}.", "What is the weather like in {}?"]
    )  # fmt: skip
    calls = [_weather(rng, city) for city in cities]
    parts = [
        f"It is {r['weather']} in {args['city']}, {r['degrees']} degrees." for _, args, r in calls
    ]
    question = vary(rng, ask_in.format(" and ".join(cities)), False)
    return tool_chat(question, calls, " ".join(parts)), GET_WEATHER


def _time_chat(rng: random.Random) -> tuple[list[Row], Row]:
    city = rng.choice(ALL_CITIES)
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    ask_in = rng.choice(
        ["What time is it in {}?", "Tell me the time in {}.", "What is the time in {}?",
         "Time in {}?"]
    )  # fmt: skip
    call = ("get_time", {"city": city}, {"time": clock})
    return tool_chat(vary(rng, ask_in.format(city), False), [call], f"It is {clock} in {city}."), (
        GET_TIME
    )


def _add_chat(rng: random.Random) -> tuple[list[Row], Row]:
    a, b = rng.randint(11, 999), rng.randint(11, 999)
    ask_in = rng.choice(["What is {} + {}?", "Add {} and {}.", "What is {} plus {}?", "{} + {}"])
    call = ("add", {"a": a, "b": b}, {"sum": a + b})
    question = vary(rng, ask_in.format(a, b), False)
    return tool_chat(question, [call], f"{a} + {b} = {a + b}."), ADD


def tool_row(rng: random.Random) -> Row:
    """A chat that needs one tool; often others are on offer too."""
    messages, needed = rng.choice([_weather_chat, _time_chat, _add_chat])(rng)
    others = [t for t in TOOLS if t is not needed]
    tools = [needed, *rng.sample(others, rng.choice([0, 0, 1, 2]))]
    rng.shuffle(tools)
    return {"messages": messages, "tools": tools}


def idle_tool_row(rng: random.Random) -> Row:
    """Tools are on offer, the question needs none."""
    kinds = [k for k in KINDS if k.name in ("capital", "colour", "what_is", "greeting", "identity")]
    return row(*ask(rng, rng.choice(kinds)), tools=rng.sample(TOOLS, rng.choice([1, 1, 2])))


ALL_CITIES = [fact[2] for fact in facts.CAPITALS] + facts.MORE_CITIES
SPECIAL: list[tuple[Callable[[random.Random], Row], int]] = [
    (two_turn_row, 900),
    (follow_up_row, 250),
    (user_name_row, 150),
    (persona_row, 900),
    (copy_row, 1500),
    (tool_row, 900),
    (idle_tool_row, 150),
]


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def corpus(seed: int) -> list[Row]:
    """All distinct rows of the training corpus, shuffled; the same for the same seed."""
    rng = random.Random(seed)
    rows = [plain_row(rng, kind) for kind in KINDS for _ in range(int(kind.share * PLAIN_ROWS))]
    rows += [make(rng) for make, count in SPECIAL for _ in range(count)]
    distinct = {json.dumps(r, ensure_ascii=False): r for r in rows}
    result = list(distinct.values())
    rng.shuffle(result)
    return result


def probes(seed: int, count: int = 60) -> list[Pair]:
    """Questions in phrasings that the corpus never uses, with their answers, spread over kinds."""
    rng = random.Random(seed)
    pools = [rng.sample(pool, len(pool)) for kind in KINDS if (pool := kind.pairs(held=True))]
    found: list[Pair] = []
    while len(found) < count:
        for pool in pools:
            if pool and len(found) < count:
                found.append(pool.pop())
    return found
