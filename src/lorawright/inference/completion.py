"""An answer → OpenAI's `chat.completion` objects: whole, in chunks of a stream, and errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from lorawright.inference.chat_request import RefusedRequest
from lorawright.inference.stream_filter import Answer
from lorawright.inference.tool_calls import Call

END_OF_STREAM = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer's id and time, and the objects that carry it.

    Attributes:
        model: The name it is given out under.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, pieces: Sequence[str], answer: Answer) -> dict[str, Any]:
        """A `chat.completion`."""
        text = "".join(pieces) + answer.rest
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if answer.calls:
            message |= {"content": text or None, "tool_calls": _calls(answer.calls)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(answer)}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """A `chat.completion.chunk`, as a server-sent event."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def last_chunks(self, answer: Answer, *, include_usage: bool) -> bytes:
        """What is left of an answer, how it ended, and the counts if they were asked for."""
        found = [self.chunk({"content": answer.rest})] if answer.rest else []
        if answer.calls:
            calls = [{"index": i, **call} for i, call in enumerate(_calls(answer.calls))]
            found.append(self.chunk({"tool_calls": calls}))
        found.append(self.chunk({}, answer.finish))
        if include_usage:
            head = self._head("chat.completion.chunk")
            found.append(event({**head, "choices": [], "usage": usage(answer)}))
        return b"".join([*found, END_OF_STREAM])

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
        }
        for call in calls
    ]


def usage(answer: Answer) -> dict[str, int]:
    """Counts of tokens."""
    return {
        "prompt_tokens": answer.num_prompt_tokens,
        "completion_tokens": answer.num_tokens,
        "total_tokens": answer.num_prompt_tokens + answer.num_tokens,
    }


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def error(problem: RefusedRequest) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": problem.what,
            "type": "rate_limit_error" if problem.status == 429 else kind,
            "param": problem.param,
            "code": problem.code,
        }
    }
