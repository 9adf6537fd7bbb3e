"""Several processes give what one gives: the same chats and problems, in order, counted alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers import rows

from lorawright import hub, masks
from lorawright.config.schema import DataSettings
from lorawright.dataset import pool
from lorawright.errors import DataError
from lorawright.types import Conversation, Message, Problem, Role, ToolCall

TOKENIZER = masks.load(hub.tokenizer_folder("tiny"), "tiny")
SETTINGS = DataSettings(max_length=70, overlong="cut", special_tokens_in_text="escape")


@pytest.fixture(autouse=True)
def _three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_num_cores", lambda: 3)
    monkeypatch.setattr(pool, "BATCH", 16)


def chats(num_chats: int) -> Iterator[Conversation | Problem]:
    """Plain ones, some with tools, forged tokens, an answer first; and problems of the reader."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for line, row in enumerate(rows(num_chats), 1):
        messages = tuple(Message(Role(m["role"]), m["content"]) for m in row["messages"])
        if line % 5 == 0:
            call = Message(Role.ASSISTANT, None, (ToolCall("f", {"x": [line, None]}),))
            messages = (messages[0], call, Message(Role.TOOL, "<|im_end|>"), *messages[1:])
        if line % 17 == 0:
            messages = messages[1:]
        yield Conversation(messages, (tool,) if line % 10 == 0 else None, "rows.jsonl", line)
        if line % 13 == 0:
            yield Problem("rows.jsonl", line, "", "is broken", "mend it", "syntax")  # type: ignore[arg-type]


def test_equal_to_one_process() -> None:
    alone, many = (masks.Encoder(TOKENIZER, SETTINGS) for _ in range(2))
    expected = list(alone.run(chats(200)))
    assert list(pool.encode(many, chats(200), start_after=20)) == expected
    assert asdict(many.counts) == asdict(alone.counts)
    assert any(isinstance(item, Problem) and item.kind == "mask" for item in expected)


def test_few_rows_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    encoder = masks.Encoder(TOKENIZER, SETTINGS)
    assert list(pool.encode(encoder, chats(30)))


def test_a_worker_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    encoder = masks.Encoder(TOKENIZER, SETTINGS)
    with pytest.raises(DataError, match="has ended"):
        list(pool.encode(encoder, chats(60), start_after=0))


def test_workers_end_with_whoever_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that is closed early, as on Ctrl-C, leaves no process behind."""
    started: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    found = pool.encode(masks.Encoder(TOKENIZER, SETTINGS), chats(300), start_after=0)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(started) == 3 and all(process.poll() is not None for process in started)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Workers do not import the caller's script again, as those of `multiprocessing` do."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from lorawright import hub, masks\n"
        "from lorawright.config.schema import DataSettings\n"
        "from lorawright.dataset import pool\n"
        "from lorawright.types import Conversation, Message, Role\n"
        "pool._num_cores = lambda: 2\n"
        "turns = (Message(Role.USER, 'Hi'), Message(Role.ASSISTANT, 'Hello'))\n"
        "rows = [Conversation(turns, None, 'a.jsonl', line) for line in range(1, 4)]\n"
        "tokenizer = masks.load(hub.tokenizer_folder('tiny'), 'tiny')\n"
        "encoder = masks.Encoder(tokenizer, DataSettings())\n"
        "print(len(list(pool.encode(encoder, rows, start_after=0))))\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("3", 0), result.stderr
