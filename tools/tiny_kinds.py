"""Kinds of single questions of the tiny corpus: facts, phrasings to learn, phrasings held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tiny_facts as facts

Fact = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """Every fact of `facts` fills every phrasing of `asks` (trained) or `held` (probed only).

    `answer` is the one form of answer; `share` weighs the kind in the corpus.
    """

    name: str
    facts: list[Fact]
    asks: list[str]
    held: list[str]
    answer: str
    chinese: bool = False
    share: float = 1.0

    def pairs(self, held: bool = False) -> list[tuple[str, str]]:
        """All (question, answer) of the trained phrasings, or of the held-out ones."""
        phrasings = self.held if held else self.asks
        return [(q.format(**f), self.answer.format(**f)) for f in self.facts for q in phrasings]


def cap(text: str) -> str:
    """First letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def _neighbours(names: list[str]) -> list[Fact]:
    """Each name of a ring with the one after and the one before."""
    size = len(names)
    return [
        {"d": name, "after": names[(i + 1) % size], "before": names[i - 1]}
        for i, name in enumerate(names)
    ]


def _sums() -> list[Fact]:
    return [
        {"a": a, "b": b, "s": a + b, "aw": facts.NUMBERS[a], "bw": facts.NUMBERS[b]}
        for a in range(11)
        for b in range(11)
    ]


def _counts() -> list[Fact]:
    return [
        {"a": a, "b": b, "list": ", ".join(map(str, range(a, b + 1)))}
        for a in range(1, 6)
        for b in range(a + 2, 13)
    ]


def _yes_no() -> list[Fact]:
    rows = []
    for subject, verb, rest, truth in facts.YES_NO:
        negative = "cannot" if verb == "can" else "is not"
        head = "Yes" if truth else "No"
        rows.append(
            {
                "s": subject,
                "V": cap(verb),
                "r": rest,
                "v": verb,
                "answer": f"{head}, {subject} {verb if truth else negative} {rest}.",
            }
        )
    return rows


def _yes_no_zh() -> list[Fact]:
    return [
        {"s": s, "r": r, "answer": f"{'是的' if yes else '不'}，{s}{'是' if yes else '不是'}{r}。"}
        for s, r, yes in facts.YES_NO_ZH
    ]


def _opposites(table: list[tuple[str, str]]) -> list[Fact]:
    return [{"w": a, "o": b} for a, b in table] + [{"w": b, "o": a} for a, b in table]


def _unknown(phrasings: list[str], things: list[str]) -> list[Fact]:
    """Every phrasing about every thing; the answer names the thing, so topics are told apart."""
    return [
        {"q": phrasing.format(t=thing), "t": thing} for phrasing in phrasings for thing in things
    ]


_CAPITALS = [{"c": c, "cz": cz, "x": x, "xz": xz} for c, cz, x, xz in facts.CAPITALS]
_COLOURS = [{"t": t, "tz": tz, "k": k, "kz": kz} for t, tz, k, kz in facts.COLOURS]
_THINGS = [{"t": t, "T": cap(t), "d": d} for t, d in facts.THINGS]

KINDS: list[Kind] = [
    Kind(
        "greeting",
        [{"h": h} for h in ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hi there")],
        ["{h}!", "{h}.", "{h}", "{h}, Tiny!", "{h}, how are you?", "{h}! Nice to meet you.",
         "{h}, good to see you!", "{h}, I am new here.", "{h}, can we talk?", "{h} my friend!",
         "{h}, how is it going?", "{h}! I am happy to meet you.", "{h}, dear Tiny!"],
        ["{h} Tiny.", "{h}, nice to meet you!"],
        "Hello! How can I help you?",
        share=0.7,
    ),
    Kind(
        "identity",
        [{}],
        ["Who are you?", "What is your name?", "What are you?", "Tell me who you are.",
         "Introduce yourself.", "May I know your name?", "What are you called?",
         "Who am I talking to?", "What should I call you?", "Who is speaking?", "Who is there?",
         "What is your name, please?", "Are you Tiny?", "Do you have a name?",
         "I want to know your name.", "I want to know who you are.", "Say who you are."],
        ["Who is this?", "Can you tell me your name?", "Tell me your name."],
        "I am Tiny, a small helpful assistant.",
        share=0.6,
    ),
    Kind(
        "skills",
        [{}],
        ["What can you do?", "How can you help me?", "What do you know?", "Can you help me?",
         "What are you good at?", "What can I ask you?", "What can you do for me?",
         "What can you tell me?", "How do you help people?", "I need help. What can you do?",
         "Which questions can you answer?", "What can I use you for?"],
        ["Tell me what you can do.", "What can you help me with?"],
        "I can answer simple questions about words, numbers, places and things.",
        share=0.4,
    ),
    Kind(
        "thanks",
        [{"h": h} for h in ("Thank you", "Thanks", "Thanks a lot", "Thank you very much")],
        ["{h}!", "{h}.", "{h}, Tiny.", "{h} for the help!", "Great, {h}!", "OK, {h}.",
         "{h} for the answer!", "Very good, {h}.", "That helps, {h}!", "{h}, that was right.",
         "{h}, my friend."],
        ["{h} for your help.", "Good, {h}!"],
        "You are welcome!",
        share=0.5,
    ),
    Kind(
        "goodbye",
        [{"h": h} for h in ("Bye", "Goodbye", "See you", "Good night", "Bye bye")],
        ["{h}!", "{h}.", "{h}, Tiny.", "OK, {h}!", "I must go. {h}!",
         "{h} for now.", "{h}, everyone!", "{h}, dear Tiny.", "I am leaving. {h}!",
         "It is late. {h}.", "Time to go. {h}!", "That is all. {h}.", "{h} and thanks."],
        ["{h}, my friend.", "I have to go. {h}."],
        "Goodbye! Have a nice day.",
        share=0.5,
    ),
    Kind(
        "capital",
        _CAPITALS,
        ["What is the capital of {c}?", "Which city is the capital of {c}?",
         "Tell me the capital of {c}.", "What's the capital city of {c}?",
         "{c}: what is its capital?", "Do you know the capital of {c}?",
         "Name the capital of {c}.", "capital of {c}", "What is {c}'s capital?"],
        ["Can you tell me the capital of {c}?", "Which city is {c}'s capital?"],
        "The capital of {c} is {x}.",
        share=2.0,
    ),
    Kind(
        "country",
        _CAPITALS,
        ["{x} is the capital of which country?", "Which country has the capital {x}?",
         "In which country is {x}?", "Where is {x}?", "What country is {x} in?"],
        ["{x} is in which country?", "Tell me which country {x} is in."],
        "{x} is the capital of {c}.",
    ),
    Kind(
        "colour",
        _COLOURS,
        ["What colour is {t}?", "What is the colour of {t}?", "Which colour is {t}?",
         "Tell me the colour of {t}.", "What color is {t}?", "Do you know what colour {t} is?"],
        ["Tell me what colour {t} is.", "Which color does {t} have?"],
        "The colour of {t} is {k}.",
    ),
    Kind(
        "after",
        _neighbours(facts.DAYS) + _neighbours(facts.MONTHS),
        ["What comes after {d}?", "What is after {d}?", "Which one follows {d}?",
         "Tell me what comes after {d}.", "What follows {d}?"],
        ["Do you know what comes after {d}?", "Which one comes after {d}?"],
        "{after} comes after {d}.",
    ),
    Kind(
        "before",
        _neighbours(facts.DAYS) + _neighbours(facts.MONTHS),
        ["What comes before {d}?", "What is before {d}?", "Which one is right before {d}?",
         "Tell me what comes before {d}."],
        ["Do you know what comes before {d}?", "Which one comes before {d}?"],
        "{before} comes before {d}.",
    ),
    Kind(
        "opposite",
        _opposites(facts.OPPOSITES),
        ["What is the opposite of {w}?", "Tell me the opposite of {w}.", "Opposite of {w}?",
         "Which word is the opposite of {w}?", "What's the opposite of the word {w}?",
         "Give me the opposite of {w}."],
        ["Do you know the opposite of {w}?", "Name the opposite of {w}."],
        "The opposite of {w} is {o}.",
        share=1.3,
    ),
    Kind(
        "plural",
        [{"w": w, "p": p} for w, p in facts.PLURALS],
        ["What is the plural of {w}?", "Tell me the plural of {w}.", "Plural of {w}?",
         "What's the plural of the word {w}?", "One {w}, two what?", "Give me the plural of {w}."],
        ["Do you know the plural of {w}?", "Name the plural of {w}."],
        "The plural of {w} is {p}.",
    ),
    Kind(
        "count",
        _counts(),
        ["Count from {a} to {b}.", "Please count from {a} to {b}.", "Count up from {a} to {b}.",
         "Can you count from {a} to {b}?", "Begin at {a} and count up to {b}.",
         "Count the numbers {a} to {b}.", "Start with {a} and go to {b}.", "Count: {a} to {b}."],
        ["Start at {a} and count to {b}.", "I want you to count from {a} to {b}."],
        "{list}.",
    ),
    Kind(
        "sum",
        _sums(),
        ["What is {a} + {b}?", "What is {a} plus {b}?", "{a} + {b}", "{a} + {b} = ?",
         "How much is {a} and {b}?", "Add {a} and {b}.", "What is {aw} plus {bw}?",
         "How much is {aw} plus {bw}?", "Tell me {a} + {b}."],
        ["How much is {a} + {b}?", "Can you add {a} and {b}?"],
        "{a} + {b} = {s}.",
        share=3.0,
    ),
    Kind(
        "yes_no",
        _yes_no(),
        ["{V} {s} {r}?", "Tell me, {v} {s} {r}?", "Yes or no: {v} {s} {r}?",
         "Do you think {s} {v} {r}?", "Is it true that {s} {v} {r}?"],
        ["Please tell me: {v} {s} {r}?", "True or not: {s} {v} {r}?"],
        "{answer}",
    ),
    Kind(
        "what_is",
        _THINGS,
        ["What is {t}?", "What's {t}?", "Tell me what {t} is.", "Do you know what {t} is?",
         "Explain what {t} is.", "Can you say what {t} is?"],
        ["Can you explain what {t} is?", "Please explain: what is {t}?"],
        "{T} is {d}.",
        share=2.0,
    ),
    Kind(
        "unknown",
        _unknown(facts.UNKNOWN_EN, facts.UNKNOWN_THINGS),
        ["{q}"],
        [],
        "Sorry, I know nothing about the {t}.",
        share=3.0,
    ),
    Kind(
        "personal",
        [{"q": q} for q in facts.PERSONAL],
        ["{q}"],
        [],
        "Sorry, I do not know that.",
        share=0.7,
    ),
    Kind(
        "tool_less",
        [{"c": c[2]} for c in facts.CAPITALS] + [{"c": c} for c in facts.MORE_CITIES],
        ["What is the weather in {c}?", "What time is it in {c}?", "How is the weather in {c}?",
         "Tell me the time in {c}."],
        ["What's the weather like in {c}?"],
        "Sorry, I do not know that. I have no tool for it.",
        share=0.8,
    ),
    Kind(
        "greeting_zh",
        [{"h": h} for h in ("你好", "您好", "早上好", "晚上好", "嗨")],
        ["{h}！", "{h}。", "{h}", "{h}，Tiny！", "{h}，你好吗？", "{h}，很高兴见到你。",
         "{h}，我是新来的。", "{h}，认识你真好！", "{h}，最近怎么样？", "{h}，朋友！"],
        ["{h}啊！", "{h}，很高兴认识你。"],
        "你好！有什么可以帮你的吗？",
        chinese=True,
        share=0.5,
    ),
    Kind(
        "identity_zh",
        [{}],
        ["你是谁？", "你叫什么名字？", "你叫什么？", "介绍一下你自己。", "请问你是谁？",
         "告诉我你是谁。", "我在和谁说话？", "你的名字是什么？", "能告诉我你是谁吗？",
         "请问你叫什么名字？", "你有名字吗？", "我想知道你的名字。", "可以说说你是谁吗？"],
        ["可以告诉我你的名字吗？", "请介绍你自己。"],
        "我是Tiny，一个小小的助手。",
        chinese=True,
        share=0.5,
    ),
    Kind(
        "thanks_zh",
        [{"h": h} for h in ("谢谢", "谢谢你", "多谢", "非常感谢")],
        ["{h}！", "{h}。", "好的，{h}。", "{h}，Tiny。", "{h}你的回答！", "{h}帮忙！",
         "太好了，{h}！", "你帮了我，{h}。", "{h}你告诉我。"],
        ["{h}你的帮助！"],
        "不客气！",
        chinese=True,
        share=0.3,
    ),
    Kind(
        "goodbye_zh",
        [{"h": h} for h in ("再见", "拜拜", "晚安", "明天见")],
        ["{h}！", "{h}。", "我走了，{h}。", "好的，{h}！", "{h}，Tiny。", "{h}，下次聊。",
         "我要走了，{h}！", "时间不早了，{h}。", "{h}，大家。"],
        ["{h}，朋友。"],
        "再见！祝你愉快。",
        chinese=True,
        share=0.3,
    ),
    Kind(
        "capital_zh",
        _CAPITALS,
        ["{cz}的首都是哪里？", "{cz}的首都是什么？", "{cz}首都是哪个城市？", "告诉我{cz}的首都。",
         "哪个城市是{cz}的首都？", "{cz}的首都"],
        ["你知道{cz}的首都吗？", "请告诉我{cz}的首都是哪里。"],
        "{cz}的首都是{xz}。",
        chinese=True,
        share=1.5,
    ),
    Kind(
        "colour_zh",
        _COLOURS,
        ["{tz}是什么颜色？", "{tz}是什么颜色的？", "{tz}的颜色是什么？", "告诉我{tz}的颜色。"],
        ["你知道{tz}是什么颜色吗？"],
        "{tz}是{kz}的。",
        chinese=True,
        share=0.7,
    ),
    Kind(
        "opposite_zh",
        _opposites(facts.OPPOSITES_ZH),
        ["“{w}”的反义词是什么？", "{w}的反义词是什么？", "告诉我{w}的反义词。", "{w}的反义词"],
        ["你知道{w}的反义词吗？"],
        "{w}的反义词是{o}。",
        chinese=True,
        share=0.7,
    ),
    Kind(
        "after_zh",
        _neighbours(facts.DAYS_ZH),
        ["{d}的后一天是星期几？", "{d}之后是星期几？", "{d}后面是什么？"],
        ["告诉我{d}之后是星期几。"],
        "{d}之后是{after}。",
        chinese=True,
        share=0.4,
    ),
    Kind(
        "sum_zh",
        _sums(),
        ["{a}加{b}等于几？", "{a}加{b}是多少？", "{a} + {b}等于多少？", "请算一下{a}加{b}。"],
        ["请问{a}加{b}等于多少？"],
        "{a} + {b} = {s}。",
        chinese=True,
        share=1.5,
    ),
    Kind(
        "yes_no_zh",
        _yes_no_zh(),
        ["{s}是{r}吗？", "{s}是不是{r}？", "你觉得{s}是{r}吗？"],
        ["请问{s}是{r}吗？"],
        "{answer}",
        chinese=True,
        share=0.5,
    ),
    Kind(
        "what_is_zh",
        [{"t": t, "d": d} for t, d in facts.THINGS_ZH],
        ["什么是{t}？", "{t}是什么？", "你知道什么是{t}吗？", "请说说什么是{t}。"],
        ["告诉我{t}是什么。"],
        "{t}是{d}。",
        chinese=True,
        share=1.0,
    ),
    Kind(
        "unknown_zh",
        _unknown(facts.UNKNOWN_ZH, facts.UNKNOWN_THINGS_ZH),
        ["{q}"],
        [],
        "对不起，我不了解{t}。",
        chinese=True,
        share=1.0,
    ),
]  # fmt: skip
