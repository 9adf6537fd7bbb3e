"""Model card, push and eject: what leaves the run folder, and that it is what was trained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import orjson
import pytest
from helpers import evaluation_file, rows, write_jsonl
from huggingface_hub import ModelCard

from lorawright import data, hub, masks
from lorawright.cli import run as command
from lorawright.config.schema import DataSettings
from lorawright.masks.tokenizer import render
from lorawright.run import card, lock
from lorawright.run import facts as run_facts
from lorawright.run.names import LOCK
from lorawright.types import Conversation, EncodedChat

Capture = pytest.CaptureFixture[str]
BASE = "Qwen/Qwen2.5-0.5B-Instruct"


def test_train_writes_the_card(small_run: Path) -> None:
    found = ModelCard.load(small_run / "adapter" / "README.md")
    assert found.data.library_name == "peft" and found.data.base_model is None
    assert "| training | 24 |" in found.text and "`lora.rank`" in found.text
    assert "More Information Needed" not in found.text
    assert "number" not in found.text and str(small_run.parent) not in found.text, "no data"


def test_card_names_a_hub_base_and_results(own_run: Path) -> None:
    both = {"loss": 1.5, "exact_match": 0.25, "stop": 1.0}
    found = evaluation_file({**both, "loss": 3.0}, both)
    (own_run / "evaluation.json").write_bytes(orjson.dumps(found))
    text = card.card(run_facts.read(own_run), BASE)
    assert ModelCard(text).data.base_model == BASE
    assert "1.5000 (base 3.0000)" in text and "end by themselves" in text


def test_card_in_chinese(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures and settings, in the language of the run."""
    facts = run_facts.read(own_run)
    english = card.card(facts, BASE)
    monkeypatch.setenv("LORAWRIGHT_LANG", "zh")
    chinese = card.card(facts, BASE)
    assert "掩码的两种推导" in chinese and "## Data" not in chinese
    assert chinese.count("|") == english.count("|") and card.is_ours(chinese)
    assert ModelCard(chinese).data.base_model == BASE


def test_a_card_that_a_person_changed_is_kept(own_run: Path) -> None:
    facts, folder = run_facts.read(own_run), own_run / "adapter"
    ours = (folder / "README.md").read_text("utf-8")
    assert card.is_ours(ours) and not card.is_ours(ours.replace("# run", "# My model"))
    (folder / "README.md").write_text(ours.replace("# run", "# My model"))
    card.write(folder, facts, BASE)
    assert "# My model" in (folder / "README.md").read_text("utf-8")


def test_push_lists_what_would_go(small_run: Path, capsys: Capture) -> None:
    asked = ["push", str(small_run), "me/x", "--base-model", BASE, "--dry-run", "--json"]
    assert command(asked) == 0
    files = orjson.loads(capsys.readouterr().out)["files"]
    assert {"adapter_model.safetensors", "README.md", "chat_template.jinja"} <= set(files)
    assert not [name for name in files if "checkpoint" in name or name.endswith((".jsonl", ".bin"))]


def test_push_bad_input(own_run: Path, capsys: Capture) -> None:
    run = str(own_run)
    assert command(["push", run, "me/x", "--dry-run"]) == 2
    assert "--base-model" in capsys.readouterr().err
    assert command(["push", run, "me//x"]) == 2
    assert capsys.readouterr().err.startswith("error: REPO: is not a hub id")
    assert command(["push", run, "me/x", "--base-model", BASE]) == 1, "the tests are offline"
    assert "cannot be reached" in capsys.readouterr().err
    (own_run / "adapter").rename(own_run / "elsewhere")
    assert command(["push", run, "me/x", "--base-model", BASE]) == 1
    assert "has no finished adapter" in capsys.readouterr().err


def test_a_run_that_is_written_to_is_not_pushed(own_run: Path, capsys: Capture) -> None:
    arguments = ["push", str(own_run), "someone/name", "--base-model", "a/b", "--dry-run"]
    with lock.held(own_run, LOCK):
        assert command(arguments) != 0
    assert "is in use by `lorawright train`" in capsys.readouterr().err
    assert command(arguments) == 0


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that an upload of small files asks for."""

    seen: ClassVar[list[tuple[str, bytes]]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.path, body))
        answer: Any = {"url": "https://huggingface.co/me/x", "name": "me/x", "id": "me/x"}
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            regular = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            answer = {"files": regular}
        elif self.path.endswith("/commit/main"):
            answer = {"commitUrl": "https://huggingface.co/me/x/commit/1", "commitOid": "1"}
        self.reply(answer)

    def do_GET(self) -> None:
        self.reply({"id": "me/x", "sha": "0", "siblings": []})

    def reply(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.seen.clear()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def push(run: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "lorawright", "push", str(run), "me/x", "--base-model", BASE],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_push_to_an_endpoint(small_run: Path, endpoint: str) -> None:
    done = push(small_run, endpoint)
    assert done.returncode == 0, done.stderr
    assert "https://huggingface.co/me/x/commit/1" in done.stdout
    (commit,) = [body for path, body in Hub.seen if path.endswith("/commit/main")]
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= sent
    assert str(small_run.parent).encode() not in b"".join(body for _, body in Hub.seen)
    Hub.status = 403
    try:
        refused = push(small_run, endpoint)
    finally:
        Hub.status = 200
    assert refused.returncode == 1 and "the hub refuses" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows(12))
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny, dtype: float32}\n"
        "data: {train: train.jsonl}\n"
        "lora: {dropout: 0.0}\n"
        "training: {output: run, max_steps: 3, batch_size: 4, learning_rate: 0.005, trackers: []}\n"
    )
    return tmp_path


def test_ejected_script_makes_the_same_steps(project: Path, capsys: Capture) -> None:
    assert command(["train", "c.yaml", "--json"]) == 0
    capsys.readouterr()
    assert command(["eject", "c.yaml", "--json"]) == 0
    done = orjson.loads(capsys.readouterr().out)
    assert done["data"] == "chats" and done["command"] == "python train.py"
    script = Path("c-trl/train.py").read_text("utf-8")
    assert not re.search(r"(import|from) lorawright", script)
    result = subprocess.run(
        [sys.executable, "train.py"], cwd="c-trl", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    state = json.loads(Path("c-trl/output/checkpoint-3/trainer_state.json").read_text())
    theirs = [line["loss"] for line in state["log_history"] if "loss" in line]
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert theirs == pytest.approx([line["loss"] for line in lines], rel=2e-6)
    assert Path("c-trl/output/adapter_model.safetensors").is_file()
    assert command(["eject", "c.yaml"]) == 1
    assert "c-trl: is not empty" in capsys.readouterr().err


def test_eject_writes_ids_where_chats_would_differ(project: Path, capsys: Capture) -> None:
    some = rows(12)
    some[2]["messages"][1]["train"] = False
    some[2]["messages"] += [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    write_jsonl(Path("train.jsonl"), some)
    assert command(["eject", "c.yaml", "--json", "-o", "ids"]) == 0
    done = orjson.loads(capsys.readouterr().out)
    assert done["data"] == "ids" and done["reason"].startswith("train.jsonl:3 is trained elsewhere")
    assert "ids/chat_template.jinja" not in done["files"]
    written = [
        orjson.loads(line) for line in Path("ids/data/train.jsonl").read_bytes().splitlines()
    ]
    assert command(["inspect", "c.yaml", "--json", "-n", "0"]) == 0
    shown = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    for ours, theirs in zip(shown, written, strict=True):
        assert ours["ids"] == theirs["input_ids"]
        assert ours["trained"] == [int(label != -100) for label in theirs["labels"]]
    compile(Path("ids/train.py").read_text(), "train.py", "exec")


@pytest.mark.parametrize(
    "override",
    ["model.quantization=nf4", "training.trl={adam_beta2: 0.98}", "lora.use_dora=true"],
)
def test_ejected_scripts_are_python(project: Path, override: str, capsys: Capture) -> None:
    pytest.importorskip("bitsandbytes")
    assert command(["eject", "c.yaml", "--set", override]) == 0, capsys.readouterr().err
    script = Path("c-trl/train.py").read_text("utf-8")
    compile(script, "train.py", "exec")
    assert override.split(".")[1].split("=")[0] in script.replace(
        "quantization_config", "quantization"
    )


def test_tagged_template_marks_what_is_trained() -> None:
    """On all demo chats, tools and Chinese included: the model's text, with our tags."""
    folder = hub.tokenizer_folder("tiny")
    tokenizer = masks.load(folder, "tiny")
    template = masks.tagged(tokenizer, masks.learn(tokenizer))
    demo = Path(str(folder)).parent / "demo" / "train.jsonl"
    settings = DataSettings(train=str(demo))
    chats = [item for item in data.Reader(settings) if isinstance(item, Conversation)]
    encoded = [
        row for row in masks.Encoder(tokenizer, settings).run(chats) if isinstance(row, EncodedChat)
    ]
    assert len(encoded) == len(chats) and any(item.tools for item in chats)
    for item, row in zip(chats, encoded, strict=True):
        text, spans = render(
            template, item.messages, item.tools, tokenizer.variables, with_tags=True
        )
        assert text == tokenizer.render(item.messages, item.tools)
        trained = [tokenizer.decode(row.ids[start:end]) for start, end in row.spans]
        assert [text[start:end] for start, end in spans] == trained
        asked = item.messages[:1]
        prompt, _ = render(
            template, asked, item.tools, tokenizer.variables, add_generation_prompt=True
        )
        assert prompt == tokenizer.render(asked, item.tools, generation_prompt=True)
