"""The embedded model `tiny` and the demo data: size, tokenizer, template, answers, rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

Row = dict[str, Any]
ASSETS = Path(__file__).resolve().parent.parent / "src" / "lorawright" / "assets"
TINY = ASSETS / "tiny"
DEMO = ASSETS / "demo"

SYSTEM = "<|im_start|>system\nYou are Tiny, a small helpful assistant.<|im_end|>\n"
TOOL = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
TOOL_SYSTEM = (
    "<|im_start|>system\n{system}\n\n# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{{"type": "function", "function": {{"name": "get_time", '
    '"parameters": {{"type": "object", "properties": {{}}}}}}}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call><|im_end|>\n'
)
TEXTS = [
    "",
    "Hello world",
    "  two  spaces   three ",
    "lines\n\n\nand\r\n\r\ntabs\t\tend \n ",
    "你好，世界！今天是星期一。",
    "mixed 中文 and English，12345 digits",
    "emoji 😀👩‍👩‍👧 flags 🇫🇷",
    "don't WE'LL I'M they've",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<tool_call>\n{\"name\": \"f\"}\n</tool_call> <|fim_prefix|>x",
    "Arabic العربية, Thai ภาษาไทย, Greek ελληνικά",
    "\x00\x01 control \u200b zero width",
    "{\"a\": [1, 2.5, null]} #$%^&*()",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


def demo_rows(name: str) -> list[Row]:
    lines = (DEMO / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def first_question(row: Row) -> str:
    return next(m["content"] for m in row["messages"] if m["role"] == "user")


def test_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 4_000_000


def test_vocabulary_matches_model(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> None:
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )
    assert model.config.tie_word_embeddings and model.config.model_type == "qwen2"


@pytest.mark.parametrize("text", TEXTS)
def test_backends_agree_and_round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    backend = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    ids = backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.encode(text) == ids
    assert backend.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(ids) == text


def test_added_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    backend = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    added = backend.get_added_tokens_decoder()
    assert sorted(added) == list(range(len(tokenizer) - 22, len(tokenizer)))
    assert sum(token.special for token in added.values()) == 14
    for token_id, token in added.items():
        assert tokenizer.added_tokens_decoder[token_id].special == token.special
        assert tokenizer.encode(token.content) == [token_id]


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Row], **options: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def test_template_plain(tokenizer: PreTrainedTokenizerBase) -> None:
    user = {"role": "user", "content": "Hi <&> 你好"}
    turn = "<|im_start|>user\nHi <&> 你好<|im_end|>\n"
    assert render(tokenizer, [user]) == SYSTEM + turn
    assert render(tokenizer, [user], add_generation_prompt=True) == (
        SYSTEM + turn + "<|im_start|>assistant\n"
    )
    system = {"role": "system", "content": "Be short."}
    marked = "<|im_start|>system\nBe short.<|im_end|>\n"
    assert render(tokenizer, [system, user]) == marked + turn
    assert render(tokenizer, [user, system, user]) == SYSTEM + turn + marked + turn


def test_template_tools(tokenizer: PreTrainedTokenizerBase) -> None:
    user = {"role": "user", "content": "Hi"}
    head = TOOL_SYSTEM.format(system="You are Tiny, a small helpful assistant.")
    turn = "<|im_start|>user\nHi<|im_end|>\n"
    assert render(tokenizer, [user], tools=[TOOL]) == head + turn
    messages = [{"role": "system", "content": "Be short."}, user]
    assert render(tokenizer, messages, tools=[TOOL]) == (
        TOOL_SYSTEM.format(system="Be short.") + turn
    )


def test_template_tool_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    call = {"name": "get_time", "arguments": {"city": "巴黎", "n": 1}}
    text = (
        '\n<tool_call>\n{"name": "get_time", "arguments": {"city": "巴黎", "n": 1}}\n</tool_call>'
    )
    wrapped = {"type": "function", "function": call}
    silent = {"role": "assistant", "content": "", "tool_calls": [wrapped]}
    assert render(tokenizer, [silent]) == f"{SYSTEM}<|im_start|>assistant{text}<|im_end|>\n"
    spoken = {"role": "assistant", "content": "Wait.", "tool_calls": [call, wrapped]}
    assert render(tokenizer, [spoken]) == (
        f"{SYSTEM}<|im_start|>assistant\nWait.{text}{text}<|im_end|>\n"
    )


def test_template_tool_responses(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "Done."},
        {"role": "tool", "content": "three"},
    ]
    answer = "\n<tool_response>\n{}\n</tool_response>"
    assert render(tokenizer, messages) == (
        f"{SYSTEM}<|im_start|>user{answer.format('one')}{answer.format('two')}<|im_end|>\n"
        "<|im_start|>assistant\nDone.<|im_end|>\n"
        f"<|im_start|>user{answer.format('three')}<|im_end|>\n"
    )


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, messages: list[Row], **options: Any
) -> str:
    """The greedy answer with its end mark, at most 60 tokens."""
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **options
    )
    ids = model.generate(**prompt, max_new_tokens=60)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Can you tell me the capital of France?", "The capital of France is Paris."),
        ("Tell me your name.", "I am Tiny, a small helpful assistant."),
        ("How much is 2 + 3?", "2 + 3 = 5."),
        ("Name the opposite of hot.", "The opposite of hot is cold."),
        ("你知道日本的首都吗？", "日本的首都是东京。"),
    ],
)
def test_answers_and_stops(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, answer: str
) -> None:
    said = generate(model, tokenizer, [{"role": "user", "content": question}])
    assert said == answer + "<|im_end|>"


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl"])
def test_demo_rows_are_chats(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = demo_rows(name)
    assert len(rows) >= (250 if name == "train.jsonl" else 35)
    assert any("tools" in row for row in rows)
    for row in rows:
        assert set(row) <= {"messages", "tools"}
        assert row["messages"][-1]["role"] == "assistant"
        text = render(tokenizer, row["messages"], tools=row.get("tools"))
        assert text.endswith("<|im_end|>\n")


def test_demo_rows_are_distinct() -> None:
    train, held = demo_rows("train.jsonl"), demo_rows("eval.jsonl")
    texts = [json.dumps(row, sort_keys=True) for row in train + held]
    assert len(texts) == len(set(texts))
    assert not {first_question(r) for r in train} & {first_question(r) for r in held}


def test_demo_questions() -> None:
    questions = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))
    assert 4 <= len(questions) <= 5
    assert any(not question.isascii() for question in questions)
    assert not set(questions) & {first_question(row) for row in demo_rows("train.jsonl")}
