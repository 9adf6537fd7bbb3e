"""`check` in a terminal: a problem that many rows have is one line; `--json` lists all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lorawright.cli import run


def check(folder: Path, *more: str) -> int:
    (folder / "c.yaml").write_text("model:\n  name: tiny\ndata:\n  train: x.jsonl\n")
    return run(["check", str(folder / "c.yaml"), *more])


def test_the_same_problem_in_many_rows_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = {"type": "image", "url": "x"}
    lines = [
        {"messages": [{"role": "user", "content": [image] if n else "Hi"},
                      {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(49)
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert check(tmp_path) == 1
    shown = capfd.readouterr().err
    assert shown.count("expected `text`") == 1
    assert "x.jsonl:2: messages[0].content[0].type is `image`, expected `text`" in shown
    assert "(in 48 rows, first here)" in shown and "more;" not in shown
    assert shown.splitlines()[-1] == "not ok: errors: 48; they stand above"
    assert check(tmp_path, "--json") == 1
    assert len(json.loads(capfd.readouterr().out)["problems"]) == 48


def test_keys_inside_messages_are_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "mood": "good"},
    ]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    assert check(tmp_path) == 0
    assert "keys of messages that no format knows: mood" in capfd.readouterr().out
    assert check(tmp_path, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["stats"]["files"][0]["unused_message_keys"] == {"mood": 1}
    assert found["problems"][0]["kind"] == "unknown_key"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_json_is_valid_whatever_bytes_a_name_has(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "caf\udce9.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{}\n')
    assert check(tmp_path, "--json", "--set", f"data.train={folder}") == 1
    assert r"caf\xe9" in json.loads(capfd.readouterr().out)["problems"][0]["where"]
