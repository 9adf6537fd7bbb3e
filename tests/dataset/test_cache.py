"""The cache of prepared chats: its key holds everything, it is whole or absent, it says why not."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers import rows, write_jsonl

from lorawright import hub, masks
from lorawright.config import Config
from lorawright.dataset import cache, prepare
from lorawright.errors import DataError
from lorawright.masks import tokenizer as tokenizer_module
from lorawright.run import resume
from lorawright.types import Kind

MakeConfig = Callable[..., Config]
BOS = "{{ bos_token }}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORAWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def with_model(config: Config, folder: Path, before_template: str = "") -> Config:
    """The config with a copy of tiny whose template begins with something."""
    shutil.copytree(hub.tokenizer_folder("tiny"), folder)
    path = folder / "chat_template.jinja"
    path.write_text(before_template + path.read_text(encoding="utf-8"), encoding="utf-8")
    model = config.model.model_copy(update={"name": str(folder)})
    return config.model_copy(update={"model": model})


def edit(path: Path, **changes: Any) -> None:
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **changes}))


def test_words_that_the_template_may_name_are_in_the_key(
    make_config: MakeConfig, root: Path, tmp_path: Path
) -> None:
    config = with_model(make_config(), tmp_path / "model", BOS)
    path = tmp_path / "model" / "tokenizer_config.json"
    seen = []
    for word in ("AAA", "BBB"):
        edit(path, bos_token=word)
        prepared = prepare.run(config)
        seen.append(masks.load(tmp_path / "model", "m").decode(next(iter(prepared.train)).ids)[:3])
    assert seen == ["AAA", "BBB"]


def test_versions_and_stop_tokens_are_in_the_key(
    make_config: MakeConfig, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_model(make_config(), tmp_path / "model")
    prepare.run(config)
    monkeypatch.setattr(cache, "version", lambda name: "0")
    prepare.run(config)
    stops = masks.load(tmp_path / "model", "m").stop_ids
    edit(tmp_path / "model" / "generation_config.json", eos_token_id=[*stops, 5])
    prepare.run(config)
    assert len(list(root.iterdir())) == 3


def test_end_at_which_the_generation_config_does_not_stop_is_said(
    make_config: MakeConfig, root: Path, tmp_path: Path
) -> None:
    config = with_model(make_config(), tmp_path / "model")
    assert prepare.run(config).certificate["new_stop_token"] is None
    edit(tmp_path / "model" / "generation_config.json", eos_token_id=2282)
    prepared = prepare.run(config)
    (warning,) = prepared.problems
    assert warning.message.startswith("answers end with `<|im_end|>`, at which this model's")
    assert "(`<|endoftext|>` only)" in warning.message and "merged model" in warning.hint
    assert prepared.certificate["new_stop_token"] == "<|im_end|>"
    (tmp_path / "model" / "generation_config.json").unlink()
    edit(tmp_path / "model" / "config.json", eos_token_id=2282)
    assert prepare.run(config).certificate["new_stop_token"] == "<|im_end|>"


def test_date_in_the_template_is_said_and_in_the_key(
    make_config: MakeConfig, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was prepared yesterday is not taken today, and a resume says why its chats differ."""
    config = with_model(make_config(), tmp_path / "model", "{{ strftime_now('%Y') }}")
    today = date.today()
    before = prepare.run(config)
    (warning,) = before.problems
    assert f"{today.isoformat()} is trained" in warning.message and warning.hint
    assert before.certificate["template_date"] == today.isoformat()

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return today + timedelta(days=1)

    monkeypatch.setattr(tokenizer_module, "date", Tomorrow)
    after = prepare.run(config)
    assert len(list(root.iterdir())) == 2
    days = [{"template_date": found.certificate["template_date"]} for found in (before, after)]
    expected = f"template_date was {today}, is {today + timedelta(days=1)}"
    assert resume.differences(*days) == [expected]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_disk_full_while_chats_are_written(
    make_config: MakeConfig, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(prepare.Writer, "append", fail)
    with pytest.raises(DataError, match="cache of prepared chats cannot be written") as caught:
        prepare.run(make_config())
    assert caught.value.where == str(root) and "LORAWRIGHT_CACHE" in str(caught.value.hint)
    assert os.strerror(code) in caught.value.what and list(root.iterdir()) == []


def test_data_that_cannot_be_read_is_not_the_caches_fault(
    make_config: MakeConfig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "data/train.jsonl")

    monkeypatch.setattr(prepare, "_build", fail)
    with pytest.raises(DataError, match="cannot be read") as caught:
        prepare.run(make_config())
    assert caught.value.where == "data/train.jsonl" and caught.value.hint


def test_data_that_changes_while_it_is_read(
    make_config: MakeConfig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    build = prepare._build

    def build_and_change(*arguments: Any) -> Any:
        built = build(*arguments)
        write_jsonl(Path(config.data.train), rows(5))
        return built

    monkeypatch.setattr(prepare, "_build", build_and_change)
    with pytest.raises(DataError, match="changed while it was read") as caught:
        prepare.run(config)
    assert caught.value.where == config.data.train and caught.value.hint
    assert list(root.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there")
def test_killed_while_preparing(make_config: MakeConfig, root: Path, tmp_path: Path) -> None:
    """Nothing half counts; the next run removes what is left, and nothing else."""
    config = make_config()
    (tmp_path / "c.json").write_text(config.model_dump_json())
    code = (
        "import os, signal; from pathlib import Path; from lorawright.dataset import prepare; "
        "from lorawright.config import Config; "
        "prepare._stats = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "prepare.run(Config.model_validate_json(Path('c.json').read_text()))"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = root.iterdir()
    assert left.name.startswith(".building-") and any(left.iterdir())
    long_ago = time.time() - 2 * cache.DEAD_SECONDS
    for path in (*left.iterdir(), left):
        os.utime(path, (long_ago, long_ago))
    prepare.run(config)
    (whole,) = root.iterdir()
    assert not whole.name.startswith(".") and cache.is_complete(whole)


def test_only_abandoned_folders_are_removed(make_config: MakeConfig, root: Path) -> None:
    host, long_ago = cache._host(), time.time() - 30 * 24 * 3600
    alive = root / f".building-{host}-{os.getpid()}-a"
    elsewhere, old = root / ".building-other-1-b", root / ".building-other-1-c"
    foreign = root / f".building-{host}-{2**22 + 1}-d"
    fresh = root / f".building-{host}-{2**22 + 1}-e"
    for folder in (alive, elsewhere, old, foreign, fresh):
        folder.mkdir(parents=True)
        (folder / "train.arrow").write_bytes(b"x")
    (foreign / "notes.txt").write_text("mine")
    for folder in (old, foreign):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (long_ago, long_ago))
    prepare.run(make_config())
    assert alive.is_dir() and elsewhere.is_dir() and fresh.is_dir() and not old.exists()
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]


def test_keys_that_the_template_does_not_render_are_said_once(
    make_config: MakeConfig, root: Path
) -> None:
    config, made = make_config(), rows(6)
    for row in made:
        row["messages"][0]["name"] = "Bob the Builder"
    write_jsonl(Path(config.data.train), made)
    prepared = prepare.run(config)
    (warning,) = prepared.problems
    assert warning.message.startswith("`name` of messages is not rendered") and warning.hint
    assert "(6 messages)" in warning.message
    assert prepared.certificate["not_rendered"] == {"name": 6}


def test_each_unknown_key_is_said_once_and_only_if_it_is_lost(
    make_config: MakeConfig, root: Path, tmp_path: Path
) -> None:
    config, made = make_config(num_eval=2), rows(6)
    for number, row in enumerate(made):
        row["messages"][0] |= {"mood": "merry", "name": "Bob"}
        row["messages"][1]["colour"] = f"blue-{number}"
    for path in (config.data.train, config.data.eval):
        write_jsonl(Path(str(path)), made[4:] if path == config.data.eval else made[:4])
    lost = sorted(prepare.run(config).problems, key=lambda problem: problem.path, reverse=True)
    assert [(problem.kind, problem.path) for problem in lost] == [
        (Kind.UNKNOWN_KEY, "messages[1].colour"),
        (Kind.UNKNOWN_KEY, "messages[0].mood"),
        (Kind.TEMPLATE, ""),
    ]
    assert "it is lost (6 messages)" in lost[0].message and "`content`" in lost[0].hint
    config = with_model(config, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    source = template.read_text(encoding="utf-8")
    said = "{% for m in messages %}{{ m.mood }}{% endfor %}"
    template.write_text(said + source, encoding="utf-8")
    with_mood = prepare.run(config)
    assert with_mood.certificate["not_rendered"] == {"colour": 6, "name": 6}
    assert not [problem for problem in with_mood.problems if "mood" in problem.path]


def test_unknown_key_of_a_call_is_read_by_nothing(make_config: MakeConfig, root: Path) -> None:
    config, made = make_config(), rows(4)
    call = {"function": {"name": "look", "arguments": {}}, "score": 0.5}
    made[0]["messages"][1]["tool_calls"] = [call]
    write_jsonl(Path(config.data.train), made)
    (problem,) = prepare.run(config).problems
    assert problem.path == "messages[1].tool_calls[0].score" and "nothing reads it" in problem.hint
