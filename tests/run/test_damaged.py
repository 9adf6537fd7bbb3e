"""Damaged or edited files of a run: one line with the file's address, whatever reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from lorawright import report
from lorawright.errors import ModelError, RunFolderError
from lorawright.report.words import Language
from lorawright.run import card, lock, names, resume
from lorawright.run import facts as run_facts
from lorawright.run.checkpoint import MARKER, latest
from lorawright.run.folder import RunFolder, open_run, read_config

CONFIGS = (
    b"", b"\xff\xfe", b"[1]", b"model: x", b"a: [", b"model: {name: 1}",
    b"model: {name: tiny}\nlora:",
    b"a: 2024-99-99", b"model: {name: tiny}\nlora: {rank: x}",
)  # fmt: skip
VALUES: list[tuple[str, str, Any]] = [
    ("plan.json", "lengths", {"train": {"upto": [1], "num": [0]}, "eval": None}),
    ("plan.json", "lengths", {"train": {"upto": [], "num": []}, "eval": None}),
    ("plan.json", "resume_command", ["x"]),
    ("plan.json", "memory", {"weights": 1}),
    ("plan.json", "num_parameters", 0),
    ("plan.json", "reasons", []),
    ("rows.json", "rows", [{"glyphs": 1}]),
    ("environment.json", "packages", None),
    ("environment.json", "hardware", {"name": 1}),
    ("certificate.json", "agreed", 3),
    ("certificate.json", "train_on", "some"),
    ("data.json", "num_chats", "12"),
    ("data.json", "files", {}),
    ("data.json", "percentile_tokens", {}),
    ("result.json", "peak_memory_bytes", [1]),
]


@pytest.mark.parametrize("content", CONFIGS)
def test_a_damaged_config_is_one_line(own_run: Path, content: bytes) -> None:
    (own_run / "config.yaml").write_bytes(content)
    with pytest.raises(RunFolderError, match="is not the config of a run") as caught:
        read_config(open_run(own_run)[0])
    assert caught.value.where == str(own_run / "config.yaml") and caught.value.hint


@pytest.mark.parametrize(("name", "key", "value"), VALUES)
def test_a_value_of_another_type_is_one_line(
    own_run: Path, name: str, key: str, value: Any
) -> None:
    path = own_run / name
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), key: value}))
    with pytest.raises(RunFolderError, match=f"`{key}") as caught:
        report.write(own_run, Language.ENGLISH)
    assert caught.value.where == str(path) and "remove this file" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_a_damaged_environment_stops_what_needs_the_base(own_run: Path, content: bytes) -> None:
    (own_run / "environment.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"environment\.json"):
        RunFolder(own_run).base_weights()


def test_odd_lines_of_metrics_are_passed_over(own_run: Path) -> None:
    path, before = own_run / "metrics.jsonl", list(RunFolder(own_run).read_metrics())
    odd = (b"[]", b'{"loss": 1}', b'{"step": "1", "loss": 2}', b'{"step": 9, "loss": {}}', b"\xff",
           b'{"step": 1, "loss": 1e308, "seconds": 1e308}')  # fmt: skip
    path.write_bytes(b"\n".join(odd) + b"\n" + path.read_bytes())
    run = RunFolder(own_run)
    assert list(run.read_metrics()) == before
    assert run_facts.read(own_run).steps[0]["step"] == 1
    report.write(own_run, Language.ENGLISH)
    run.rewind_metrics(2)
    assert {line["step"] for line in run.read_metrics()} == {0, 1, 2}


@pytest.mark.parametrize("marker", [b"", b"{}", b'{"kind": "cake"}'])
def test_a_damaged_marker_does_not_end_the_verifying(own_run: Path, marker: bytes) -> None:
    """The adapter was taken for one of a version without digests."""
    (own_run / "adapter" / "lorawright.json").write_bytes(marker)
    with pytest.raises(ModelError, match="is damaged") as caught:
        RunFolder(own_run).finished_adapter()
    assert "--resume" in str(caught.value.hint)


@pytest.mark.parametrize("belongs_to", [None, [], {"model": 1, "base_weights": "x"}])
def test_a_checkpoint_that_names_no_run_is_one_line(own_run: Path, belongs_to: Any) -> None:
    newest = latest(own_run / "checkpoints")
    assert newest is not None
    facts = orjson.loads((newest / MARKER).read_bytes())
    (newest / MARKER).write_bytes(orjson.dumps({**facts, "belongs_to": belongs_to}))
    with pytest.raises(RunFolderError, match=r"belongs to"):
        resume.find(RunFolder(own_run), {"model": {"name": "tiny"}}, anyway=False)


@pytest.mark.parametrize("content", [b"\xff\xfe", card.MARK.encode()])
def test_a_card_of_any_bytes_is_a_persons(own_run: Path, content: bytes) -> None:
    (own_run / "adapter" / "README.md").write_bytes(content)
    card.write(own_run / "adapter", run_facts.read(own_run))
    assert (own_run / "adapter" / "README.md").read_bytes() == content


def test_pipes_in_a_run_are_not_waited_for(own_run: Path) -> None:
    newest = latest(own_run / "checkpoints")
    assert newest is not None
    for path in (newest / MARKER, own_run / names.LOCK):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    assert latest(own_run / "checkpoints") != newest
    lock.refuse_if_held(own_run, names.LOCK)
