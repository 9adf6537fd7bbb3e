"""A request body → `ChatRequest`; whatever is wrong is refused with the key at fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorawright.data.messages import OPENAI, parse_messages, parse_tools, parse_variables
from lorawright.data.problems import RowErrors
from lorawright.inference.generate import Sampling

MOST_STOPS = 4  # OpenAI's limit
LARGEST_SEED = 2**63 - 1

# Keys that this server does not support, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "modalities": (["text"],),
    "audio": (),
}


class RefusedRequest(Exception):
    """A request that is not answered.

    Args:
        what: Why, for whoever wrote the client.
        param: The key at fault.
        status: The HTTP status.
        code: OpenAI's name for the fault, where it has one.
    """

    def __init__(
        self, what: str, *, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.param = param
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat to be answered.

    Attributes:
        messages: As chat templates take them.
        tools: What the model may call, or None.
        variables: What the request tells the chat template.
        sampling: How to answer; `max_new_tokens` is what was asked for, see `has_limit`.
        has_limit: Whether the request names a limit itself.
        stops: Texts that end the answer.
        stream: Whether the answer is wanted piece by piece.
        include_usage: Whether a stream ends with the counts of tokens.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None
    variables: Mapping[str, Any]
    sampling: Sampling
    has_limit: bool
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


Limit = Annotated[int | None, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    """The keys whose types are checked here; unknown ones (`user`, `metadata`) are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")

    max_tokens: Limit = None
    max_completion_tokens: Limit = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-LARGEST_SEED, le=LARGEST_SEED)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


def parse(raw: bytes, defaults: Sampling) -> ChatRequest:
    """The request in a body.

    Args:
        raw: The body, JSON.
        defaults: For what it leaves open.

    Raises:
        RefusedRequest: It is no JSON object, or a key is wrong.
    """
    body = _object(raw)
    for key, neutral in UNSUPPORTED.items():
        value = body.get(key)
        if value is not None and value not in neutral:
            raise RefusedRequest(
                f"`{key}` is not supported by this server; leave it out", param=key
            )
    try:
        keys = _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise RefusedRequest(f"`{key}`: {first['msg']}", param=key) from None
    errors = RowErrors()
    messages = parse_messages(body.get("messages"), "messages", OPENAI, errors)
    tools = parse_tools({"tools": body.get("tools") or None}, errors)
    variables = parse_variables(body, errors)
    for found in errors.findings:
        raise RefusedRequest(f"{found.path} {found.message}; {found.hint}", param=found.path)
    limit = keys.max_completion_tokens or keys.max_tokens  # neither can be 0
    stops = [keys.stop] if isinstance(keys.stop, str) else keys.stop or []
    return ChatRequest(
        messages=tuple(message.for_template() for message in messages),
        tools=None
        if tools is None or body.get("tool_choice") == "none"
        else tuple(dict(tool) for tool in tools),
        variables=variables,
        sampling=_sampling(keys, defaults, limit),
        has_limit=limit is not None,
        stops=tuple(stops),
        stream=bool(keys.stream),
        include_usage=keys.stream_options is not None and bool(keys.stream_options.include_usage),
    )


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RefusedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RefusedRequest("the body is not a JSON object")
    return body


def _sampling(keys: _Body, defaults: Sampling, limit: int | None) -> Sampling:
    return replace(
        defaults,
        max_new_tokens=defaults.max_new_tokens if limit is None else limit,
        temperature=defaults.temperature if keys.temperature is None else keys.temperature,
        top_p=defaults.top_p if keys.top_p is None else keys.top_p,
        seed=defaults.seed if keys.seed is None else keys.seed,
    )
