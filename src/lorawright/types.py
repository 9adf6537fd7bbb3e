"""What the stages hand to each other: frozen dataclasses, no behaviour beyond their own shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"  # instructions
    USER = "user"  # questions
    ASSISTANT = "assistant"  # answers and tool calls: what is trained
    TOOL = "tool"  # results of tool calls


class Split(StrEnum):
    """Which set a chat belongs to."""

    TRAIN = "train"  # trained on
    EVAL = "eval"  # measured only


class Severity(StrEnum):
    """What a problem does to the run: stops it, removes the row, or is only reported."""

    ERROR = "error"  # the run does not start
    DROPPED = "dropped"  # the row is left out
    WARNING = "warning"  # said, and trained


class Kind(StrEnum):
    """What is wrong; policies are chosen by it."""

    CONFIG = "config"  # a key of the config
    FILE = "file"  # missing, empty, not UTF-8, unreadable
    SYNTAX = "syntax"  # a line that is not JSON
    SHAPE = "shape"  # a value of the wrong type, a missing key, an unknown role
    ORDER = "order"  # roles in an order that no chat has
    EMPTY_ANSWER = "empty_answer"  # an answer without text or call
    UNTRAINED = "untrained"  # no trained token in the row
    DUPLICATE = "duplicate"  # a chat that is there already
    LEAKED = "leaked"  # a training row that is in the evaluation set too
    OVERLONG = "overlong"  # longer than `data.max_length`
    FORGED = "forged_special_token"  # text that spells a control token
    TEMPLATE = "template"  # the chat template cannot render the row
    SWALLOWED = "swallowed"  # the chat template drops something that the row says
    MASK = "mask"  # the derivations of the mask disagree
    UNKNOWN_KEY = "unknown_key"  # inside a message: the template alone may know it
    PLACEHOLDER = "placeholder"  # {{name}} in an answer, never filled


REASONING = "reasoning_content"
"""The key of a message under which templates find what was thought before an answer."""


DATA_EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
"""Endings of the files that hold chats."""


class GgufType(StrEnum):
    """How weights are held; what the `gguf` package writes."""

    F32 = "f32"  # float32
    F16 = "f16"  # float16
    BF16 = "bf16"  # bfloat16
    Q8_0 = "q8_0"  # 8 bits in blocks of 32, a scale each
    Q5_1 = "q5_1"  # 5 bits, scale and minimum
    Q5_0 = "q5_0"  # 5 bits, a scale
    Q4_1 = "q4_1"  # 4 bits, scale and minimum
    Q4_0 = "q4_0"  # 4 bits, a scale


class ExportTarget(StrEnum):
    """The program that loads what `export` writes."""

    GGUF = "gguf"  # llama.cpp and what stands on it
    OLLAMA = "ollama"  # a GGUF with a Modelfile
    VLLM = "vllm"  # checks and commands


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding with its address; the `check --json` contract.

    `line` counts from 1: the line of a jsonl file, the line a row starts on in a json file, the row
    number of a csv, parquet or arrow file. `path` leads into the row: `messages[2].content`.
    """

    file: str
    line: int | None
    path: str
    message: str
    hint: str
    kind: Kind
    severity: Severity = Severity.ERROR
    split: Split = Split.TRAIN

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.line is not None else self.file


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant makes; `arguments` is always an object, never a JSON string.

    `id` is for templates that write it; two chats that differ in ids alone are the same chat.
    `as_text` hands the arguments over as JSON text, for templates that want them so.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None
    as_text: bool = False

    def for_template(self) -> dict[str, Any]:
        """The call in OpenAI's shape; without an id if it has none."""
        arguments: Any = dict(self.arguments)
        if self.as_text:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        call: dict[str, Any] = {"type": "function", "function": function}
        return call if self.id is None else {"id": self.id, **call}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    `content` is None only where the assistant does nothing but call tools. `train` is the row's own
    wish (None: the config decides). `extra` holds further keys, handed to the template untouched.
    """

    role: Role
    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    train: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it: absent keys are absent, never null."""
        message: dict[str, Any] = {"role": str(self.role), **self.extra}
        if self.content is not None:
            message["content"] = self.content
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class Conversation:
    """A validated chat that knows where it came from.

    `paths` leads from the row to each message, in the row's own format: `conversations[0]`,
    `output`; a path without an index is the text itself. `text_key` is the key of a message's text.
    `variables` are what this chat alone tells the template (`chat_template_kwargs`).
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None
    file: str
    line: int
    split: Split = Split.TRAIN
    paths: tuple[str, ...] = ()
    text_key: str = "content"
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def path(self, index: int, rest: str = "") -> str:
        """Where in the row something of message `index` stands; `rest` as in our own messages."""
        if not self.paths:
            return f"messages[{index}]{rest}"
        path = self.paths[index]
        if not path.endswith("]"):
            return path
        return path + (f".{self.text_key}" if rest == ".content" else rest)


Span = tuple[int, int]
"""A half-open range of token positions, `ids[start:end]`."""


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat as the trainer sees it, or one of the sequences that it becomes.

    Where a template renders earlier answers otherwise than it asks for them, no single sequence has
    all answers behind the prompts that inference sees; then a chat is several, in one step.

    Attributes:
        ids: Token ids.
        spans: Token ranges that are trained, in order.
        file: Where the row stands.
        line: Its line, or row number.
        split: The set it belongs to.
        sequence: Number among the chat's sequences, from 0.
        num_sequences: How many the chat has.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    file: str
    line: int
    split: Split = Split.TRAIN
    sequence: int = 0
    num_sequences: int = 1

    @property
    def num_trained_tokens(self) -> int:
        return sum(end - start for start, end in self.spans)

    def trained_flags(self) -> list[int]:
        """One 0 or 1 per id."""
        flags = [0] * len(self.ids)
        for start, end in self.spans:
            flags[start:end] = [1] * (end - start)
        return flags
