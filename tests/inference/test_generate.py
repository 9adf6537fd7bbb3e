"""Chat: history, commands, base and tuned on the same history."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorawright.cli import run as command
from lorawright.cli.chat_session import ChatSession
from lorawright.config.schema import ModelSettings, TemplateSettings
from lorawright.inference.generate import ChatModel, Sampling
from lorawright.run.folder import open_run

Capture = pytest.CaptureFixture[str]
QUESTION = {"role": "user", "content": "Who are you?"}


@pytest.fixture(scope="module")
def chat_model(small_run: Path) -> ChatModel:
    folder, config = open_run(small_run)
    return ChatModel.load(folder, ModelSettings.model_validate(config["model"]), TemplateSettings())


def test_history_and_commands(chat_model: ChatModel, capsys: Capture) -> None:
    conversation = ChatSession(chat_model, Sampling(max_new_tokens=12))
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


def test_retry_samples_anew(chat_model: ChatModel) -> None:
    conversation = ChatSession(chat_model, Sampling(max_new_tokens=24, temperature=3.0))
    conversation.ask("Who are you?")
    first = conversation.history[1]["content"]
    conversation.command("/retry")
    assert conversation.history[1]["content"] != first


def test_a_caller_that_stops_listening_stops_the_answer(chat_model: ChatModel) -> None:
    stream = chat_model.answer([QUESTION], Sampling(max_new_tokens=4000, temperature=5.0))
    next(stream)
    started = time.perf_counter()
    stream.close()
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("word", ["exit", "QUIT", "/exit", "/quit", "", "/q"])
def test_words_that_end_a_chat(
    chat_model: ChatModel, word: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    said = iter([word])
    monkeypatch.setattr("rich.console.Console.input", lambda *_, **__: next(said))
    ChatSession(chat_model, Sampling(max_new_tokens=4)).run()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("given", "used"), [(0, 0), (5, 5), (None, 7)])
def test_pad_id_0_is_a_pad_id(chat_model: ChatModel, given: int | None, used: int) -> None:
    made = ChatModel(
        chat_model.model, SimpleNamespace(pad_token_id=given), [7], chat_model.template
    )
    assert made._generation(Sampling()).pad_token_id == used


def test_chat_in_the_terminal(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    said = iter(["Who are you?", "/base", "/help", ""])
    monkeypatch.setattr("rich.console.Console.input", lambda *_, **__: next(said))
    assert command(["chat", str(small_run), "--max-new-tokens", "12"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2 and "/retry" in shown.err
