"""Chat: history, commands, base and tuned on the same history, and the OpenAI-compatible server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lorawright import serve
from lorawright.cli import run as command
from lorawright.cli.converse import Conversation
from lorawright.config.schema import ModelSettings
from lorawright.run_folder import open_run
from lorawright.talk import Sampling, Talker

Capture = pytest.CaptureFixture[str]
QUESTION = {"role": "user", "content": "Who are you?"}


@pytest.fixture(scope="module")
def talker(small_run: Path) -> Talker:
    folder, config = open_run(small_run)
    return Talker.load(folder, ModelSettings.model_validate(config["model"]))


def test_history_and_commands(talker: Talker, capsys: Capture) -> None:
    conversation = Conversation(talker, Sampling(max_new_tokens=12))
    conversation.ask("Who are you?")
    first = list(conversation.history)
    assert [message["role"] for message in first] == ["user", "assistant"]
    conversation.command("/retry")
    assert conversation.history == first, "the most likely tokens are the same again"
    conversation.command("/base")
    assert conversation.history[0] == first[0] and len(conversation.history) == 2
    assert "Tiny" in conversation.history[1]["content"], "the base answers the same question"
    assert conversation.history[1] != first[1]
    conversation.command("/base")
    assert conversation.history == first
    conversation.ask("And then?")
    assert len(conversation.history) == 4
    conversation.command("/system You are a parrot.")
    assert conversation.messages() == [{"role": "system", "content": "You are a parrot."}]
    conversation.command("/retry")
    conversation.command("/nonsense")
    error = capsys.readouterr().err
    assert "nothing has been asked yet" in error and "/nonsense is no command" in error


def test_retry_samples_anew(talker: Talker) -> None:
    conversation = Conversation(talker, Sampling(max_new_tokens=24, temperature=3.0))
    conversation.ask("Who are you?")
    first = conversation.history[1]["content"]
    conversation.command("/retry")
    assert conversation.history[1]["content"] != first


def test_a_caller_that_stops_listening_stops_the_answer(talker: Talker) -> None:
    stream = talker.answer([QUESTION], Sampling(max_new_tokens=4000, temperature=5.0))
    next(stream)
    started = time.perf_counter()
    stream.close()
    assert time.perf_counter() - started < 3


def test_chat_in_the_terminal(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    said = iter(["Who are you?", "/base", "/help", ""])
    monkeypatch.setattr("rich.console.Console.input", lambda *_, **__: next(said))
    assert command(["chat", str(small_run), "--max-new-tokens", "12"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2 and "/retry" in shown.err


def test_serve_bad_input(small_run: Path, capsys: Capture) -> None:
    assert command(["chat", str(small_run), "--serve", "--base"]) == 2
    assert "--serve: cannot be combined" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert command(["chat", str(small_run), "--serve", "--port", port]) == 1
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}: cannot be used" in error and "--port" in error


@pytest.fixture
def address(talker: Talker) -> Iterator[str]:
    import uvicorn

    config = uvicorn.Config(
        serve.application(talker, "my-run"), host=serve.HOST, port=0, log_level="error"
    )
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://{serve.HOST}:{port}/v1"
    server.should_exit = True
    thread.join()


def test_openai_client(address: str, talker: Talker) -> None:
    """The client's answers, whole and streamed, are the talker's own."""
    from openai import OpenAI

    expected = "".join(talker.answer([QUESTION], Sampling(max_new_tokens=30)))
    asked: dict[str, Any] = {"messages": [QUESTION], "temperature": 0, "max_tokens": 30}
    with OpenAI(base_url=address, api_key="none") as client:
        assert [model.id for model in client.models.list().data] == ["my-run"]
        whole = client.chat.completions.create(model="my-run", **asked)
        assert whole.choices[0].message.content == expected
        with client.chat.completions.create(model="other", stream=True, **asked) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == expected and len(pieces) > 3
