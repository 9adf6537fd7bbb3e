"""`chat --serve`: what OpenAI clients get, what others do not, and who has gone frees the model."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
from helpers import WEATHER

from lorawright.cli import run as command
from lorawright.config.schema import ModelSettings, TemplateSettings
from lorawright.inference import app, request_queue, stream_filter
from lorawright.inference import server as serve
from lorawright.inference.chat_request import parse
from lorawright.inference.generate import ChatModel, GenerationResult, Sampling
from lorawright.run.folder import open_run

Capture = pytest.CaptureFixture[str]
QUESTION = {"role": "user", "content": "Who are you?"}
LONG = {"max_tokens": 1800, "temperature": 2.0, "seed": 4}


@pytest.fixture(scope="module")
def chat_model(small_run: Path) -> ChatModel:
    folder, config = open_run(small_run)
    return ChatModel.load(folder, ModelSettings.model_validate(config["model"]), TemplateSettings())


@contextmanager
def running(chat_model: ChatModel, name: str = "my-run") -> Iterator[int]:
    """A server in this process; gives its port."""
    import uvicorn

    bound = serve.bind(0)
    made = app.application(
        request_queue.RequestQueue(chat_model), name, Sampling(max_new_tokens=30)
    )
    server = uvicorn.Server(uvicorn.Config(made, log_level="error", lifespan="off", ws="none"))
    thread = Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def port(chat_model: ChatModel) -> Iterator[int]:
    with running(chat_model) as number:
        yield number


@pytest.fixture(scope="module")
def endless(chat_model: ChatModel) -> Iterator[int]:
    """The port of a model that no token stops."""
    with running(
        ChatModel(chat_model.model, chat_model.tokenizer, [10**6], chat_model.template)
    ) as number:
        yield number


def ask(
    port: int, body: object, path: str = "/v1/chat/completions", **headers: str
) -> tuple[int, Any]:
    """Status and JSON of a POST; a body that is not bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    given = {"Content-Type": "application/json", **headers}
    connection = http.client.HTTPConnection(serve.HOST, port, timeout=60)
    connection.request("POST", path, raw, {name.replace("_", "-"): v for name, v in given.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, orjson.loads(content)


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(serve.HOST, port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_openai_client(port: int, chat_model: ChatModel) -> None:
    """The client's answers, whole and streamed, are the model's own; tokens are counted."""
    from openai import OpenAI

    expected = "".join(chat_model.answer([QUESTION], Sampling(max_new_tokens=30)))
    asked: dict[str, Any] = {"messages": [QUESTION], "temperature": 0, "max_tokens": 30}
    with OpenAI(base_url=f"http://{serve.HOST}:{port}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list().data] == ["my-run"]
        assert client.models.retrieve("my-run").id == "my-run"
        whole = client.chat.completions.create(model="my-run", **asked)
        assert whole.choices[0].message.content == expected
        with client.chat.completions.create(
            model="other", stream=True, stream_options={"include_usage": True}, **asked
        ) as stream:
            chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected and len(pieces) > 3
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 30 < whole.usage.total_tokens


class Scripted(ChatModel):
    """Says a given text, a character at a time."""

    def __init__(self, chat_model: ChatModel, text: str) -> None:
        super().__init__(
            chat_model.model, chat_model.tokenizer, chat_model.end_ids, chat_model.template
        )
        self.text = text

    def stream(self, prompt: Any, sampling: Sampling, **_: Any) -> Any:
        yield from self.text
        return GenerationResult(prompt["input_ids"].shape[1], len(self.text), stopped=True)


CALLS = (
    'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
)


def test_openai_client_gets_tool_calls(chat_model: ChatModel) -> None:
    """A stream shows the words before the calls at once."""
    from openai import OpenAI

    asked: dict[str, Any] = {"model": "r", "messages": [QUESTION], "tools": [WEATHER]}
    with (
        running(Scripted(chat_model, CALLS)) as port,
        OpenAI(base_url=f"http://{serve.HOST}:{port}/v1", api_key="x") as client,
    ):
        (choice,) = client.chat.completions.create(**asked).choices
        chunks = list(client.chat.completions.create(stream=True, **asked))
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me see."
    calls = choice.message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city":"北京"}', "{}"]
    assert len({call.id for call in calls}) == 2
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "Let me see."
    (streamed,) = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert [call.function.name for call in streamed] == ["get_weather", "get_weather"]
    assert [call.index for call in streamed] == [0, 1]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "stops", "calls", "shown", "finish"),
    [
        ("Hello world", (), False, "Hello world", "stop"),
        ("Hello<END>world", ("<END>",), False, "Hello", "stop"),
        ("a<E", ("<END>",), False, "a<E", "stop"),
        ("one two", ("two", "one t"), False, "", "stop"),
        ("no call <tool_call> broken", (), True, "no call <tool_call> broken", "stop"),
        ('{"no": "call"}', (), True, '{"no": "call"}', "stop"),
        ('{"name": "f", "arguments": {"x": 1}}', (), True, "", "tool_calls"),
        (CALLS, (), True, "Let me see.", "tool_calls"),
        (CALLS, (), False, CALLS, "stop"),
    ],
)
def test_stream_filter(
    text: str, stops: tuple[str, ...], calls: bool, shown: str, finish: str, size: int
) -> None:
    """However the text is cut into pieces, the same of it is shown."""
    made = stream_filter.StreamFilter(stops, calls=calls)
    pieces = [made.push(text[start : start + size]) for start in range(0, len(text), size)]
    answer = made.finish(GenerationResult(1, 2, stopped=True))
    assert "".join(pieces) + answer.rest == shown
    assert answer.finish == finish and bool(answer.calls) == (finish == "tool_calls")


def test_stop_texts_and_limits(endless: int) -> None:
    asked = {"messages": [QUESTION], **LONG}
    status, free = ask(endless, {**asked, "max_tokens": 40})
    assert status == 200 and free["choices"][0]["finish_reason"] == "length"
    assert free["usage"]["completion_tokens"] == 40
    text = free["choices"][0]["message"]["content"]
    stop = text[10:13]
    status, cut = ask(endless, {**asked, "max_completion_tokens": 40, "stop": stop})
    assert cut["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] < 40, "the model stopped too"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": ["x"]}, "messages[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [QUESTION], "max_tokens": -5}, "max_tokens"),
    ({"messages": [QUESTION], "max_tokens": 0}, "max_tokens"),
    ({"messages": [QUESTION], "max_tokens": "many"}, "max_tokens"),
    ({"messages": [QUESTION], "max_tokens": 10**9}, "max_tokens"),
    ({"messages": [QUESTION], "temperature": -1}, "temperature"),
    ({"messages": [QUESTION], "top_p": 0}, "top_p"),
    ({"messages": [QUESTION], "seed": 2**63}, "seed"),
    ({"messages": [QUESTION], "stop": [""]}, "stop"),
    ({"messages": [QUESTION], "stop": ["a"] * 5}, "stop"),
    ({"messages": [QUESTION], "stream": "yes"}, "stream"),
    ({"messages": [QUESTION], "n": 2}, "n"),
    ({"messages": [QUESTION], "tools": {"a": 1}}, "tools"),
    ({"messages": [QUESTION], "tools": [{"type": "function"}]}, "tools[0].name"),
    ({"messages": [QUESTION], "response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": [{"role": "user", "content": "x " * 40_000}]}, "messages"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=lambda v: str(v)[:60])
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(port: int, body: dict[str, Any], param: str, stream: bool) -> None:
    """4xx in OpenAI's shape, with the key at fault; streams too."""
    status, answer = ask(port, {"stream": stream, **body})
    assert status == 400, answer
    assert answer["error"]["param"] == param and answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error" and "code" in answer["error"]


def test_bodies_that_are_not_read(port: int) -> None:
    good = orjson.dumps({"messages": [QUESTION]})
    assert ask(port, b"{")[0] == 400
    assert ask(port, [1])[0] == 400
    assert ask(port, b"\xff\xfe")[0] == 400
    assert ask(port, b"[" * 100_000)[0] == 400
    status, answer = ask(port, good, Content_Type="text/plain")
    assert status == 415 and "application/json" in answer["error"]["message"]
    status, _ = ask(port, b'{"x": "' + b"x" * app.MOST_BODY_BYTES + b'"}')
    assert status == 413


def test_a_body_that_does_not_come(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LONGEST_BODY_SECONDS", 0.2)
    with socket.create_connection((serve.HOST, port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"])
def test_other_hosts_are_refused(port: int, host: str) -> None:
    assert ask(port, {"messages": [QUESTION]}, Host=host)[0] in (400, 403)
    assert get(port, "/v1/models", Host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:{port}", "LOCALHOST", "[::1]:{port}"])
def test_own_hosts_are_answered(port: int, host: str) -> None:
    assert get(port, "/health", Host=host.format(port=port)) == (200, b'{"status":"ok"}')


def test_other_origins_are_refused(port: int) -> None:
    body = {"messages": [QUESTION], "max_tokens": 1}
    for origin in ("http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1"):
        status, answer = ask(port, body, Origin=origin)
        assert status == 403 and "origin" in answer["error"]["message"]
    assert ask(port, body, Origin=f"http://127.0.0.1:{port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/reset", "/load_model", "/v1/audio/transcriptions", "/v1/responses", "/v1/completions"],
)
def test_no_other_verbs(port: int, path: str) -> None:
    status, answer = ask(port, {"messages": [QUESTION]}, path)
    assert status == 404 and path in answer["error"]["message"]
    assert get(port, "/v1/chat/completions")[0] == 405
    assert get(port, "/../../etc/passwd")[0] == 404


def test_the_first_page_says_what_this_is(chat_model: ChatModel) -> None:
    with running(chat_model, "<b>run") as port:
        status, raw = get(port, "/")
    page = raw.decode()
    assert status == 200 and f"http://127.0.0.1:{port}/v1" in page
    assert "&lt;b&gt;run" in page and "<b>" not in page


def begin(port: int, **keys: Any) -> socket.socket:
    """Sends a request that takes long, and leaves its answer unread."""
    body = orjson.dumps({"messages": [QUESTION], **LONG, **keys})
    connection = socket.create_connection((serve.HOST, port), timeout=60)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
        % (len(body), body)
    )
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_model(endless: int, stream: bool) -> None:
    """While an answer is given, and while others wait; the next client is answered soon."""
    gone = [begin(endless, stream=stream) for _ in range(4)]
    if stream:
        assert gone[0].recv(10).startswith(b"HTTP/1.1 2")
    time.sleep(0.3)
    for connection in gone:
        connection.close()
    started = time.monotonic()
    status, _ = ask(endless, {"messages": [QUESTION], "max_tokens": 2})
    assert status == 200 and time.monotonic() - started < 3


def test_requests_at_once_are_answered_in_turn(port: int) -> None:
    body = {"messages": [QUESTION], "max_tokens": 5, "temperature": 0}
    expected = ask(port, body)[1]["choices"]
    found: list[Any] = []
    threads = [
        Thread(target=lambda: found.append(ask(port, body)[1]["choices"])) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 12


def test_too_many_at_once(endless: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_queue, "MOST_WAITING", 1)
    with begin(endless, stream=True) as first:
        assert first.recv(10)
        status, answer = ask(endless, {"messages": [QUESTION]})
    assert status == 429 and answer["error"]["type"] == "rate_limit_error"


def test_an_answer_has_a_time_limit(endless: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_queue, "LONGEST_ANSWER_SECONDS", 0.5)
    status, answer = ask(endless, {"messages": [QUESTION], **LONG})
    assert status == 200 and answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] < 1800


def test_a_fault_of_the_model_is_one_line(chat_model: ChatModel, capsys: Capture) -> None:

    class Broken(Scripted):
        def stream(self, prompt: Any, sampling: Sampling, **_: Any) -> Any:
            yield self.text
            raise RuntimeError("no memory\nleft")

    with running(Broken(chat_model, "Hi")) as port:
        status, whole = ask(port, {"messages": [QUESTION]})
        with begin(port, stream=True) as connection:
            streamed = connection.makefile("rb").read()
    assert status == 500 and whole["error"]["type"] == "server_error"
    assert b"RuntimeError: no memory" in streamed
    assert capsys.readouterr().err == "unexpected RuntimeError: no memory\n" * 2


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def test_request_keys() -> None:
    """What is left open is the command line's; null is the same as left out."""
    usual = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    open_ = {"messages": [QUESTION], "max_tokens": None, "stop": None, "user": "me", "n": 1}
    assert parse(orjson.dumps(open_), usual).sampling == usual
    call = {"name": "f", "arguments": '{"x": 1}'}
    given = {
        "messages": [
            {"role": "developer", "content": [text("Be "), text("kind.")]},
            QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": call}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ],
        "tools": [WEATHER], "tool_choice": "none", "temperature": 1, "stop": "x", "stream": True,
    }  # fmt: skip
    asked = parse(orjson.dumps(given), usual)
    assert asked.messages[0] == {"role": "system", "content": "Be kind."}
    assert asked.messages[2]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert asked.tools is None and asked.stops == ("x",) and asked.stream
    assert asked.sampling == Sampling(7, 1, 0.9, 3)


def test_command_line(small_run: Path, capsys: Capture) -> None:
    assert command(["chat", str(small_run), "--serve", "--base"]) == 2
    assert "--serve: cannot be combined" in capsys.readouterr().err
    with serve.bind(0) as taken:
        port = str(taken.getsockname()[1])
        assert command(["chat", str(small_run), "--serve", "--port", port]) == 1
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}: cannot be used" in error and "--port" in error


@pytest.mark.slow
def test_ctrl_c_ends_within_a_second(small_run: Path) -> None:
    """Also while an answer is given."""
    with serve.bind(0) as free:
        port = free.getsockname()[1]
    arguments = ["chat", str(small_run), "--serve", "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, "-m", "lorawright", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "Ctrl-C ends" in process.stderr.readline()
        with begin(port, stream=True) as connection:
            assert connection.recv(10)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
    assert process.returncode == 0 and rest.strip() == ""
    assert time.monotonic() - started < 2, "a second, and one more on a busy machine"
