"""Data preparation: cached by content, counted whole, nothing lost on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import rows, write_jsonl

from lorawright import masks
from lorawright.config import Config
from lorawright.dataset import prepare
from lorawright.errors import DataError


def test_a_second_time_nothing_is_tokenized(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(num_eval=3)
    first = prepare.run(config)
    monkeypatch.setattr(masks.Encoder, "run", lambda *_: pytest.fail("encoded again"))
    second = prepare.run(config)
    assert list(second.train) == list(first.train)
    assert second.certificate == first.certificate and second.stats == first.stats
    other = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 9, "output": "x"})}
    )
    assert prepare.run(other).stats == first.stats, "training settings are not in the key"


@pytest.mark.parametrize("change", ["data", "train_on", "max_length"])
def test_what_matters_is_in_the_key(make_config: Callable[..., Config], change: str) -> None:
    config = make_config()
    before = prepare.run(config).certificate["data_sha256"]
    if change == "data":
        write_jsonl(Path(config.data.train), rows(21))
    update = {"train_on": {"train_on": "all"}, "max_length": {"max_length": 41, "overlong": "drop"}}
    data = config.data.model_validate(config.data.model_dump() | update.get(change, {}))
    after = prepare.run(config.model_copy(update={"data": data}))
    assert after.certificate["data_sha256"] != before


def test_every_row_is_accounted_for(make_config: Callable[..., Config]) -> None:
    """Rows in the set, rows left out with a line each, and nothing else."""
    config = make_config(num_rows=40)
    data = config.data.model_validate(
        config.data.model_dump() | {"max_length": 60, "overlong": "drop"}
    )
    prepared = prepare.run(config.model_copy(update={"data": data}))
    assert len(prepared.rejected) > 0
    lines = {chat.line for chat in prepared.train} | {p.line for p in prepared.rejected}
    assert lines == set(range(1, 41))
    assert prepared.stats["num_problems"]["dropped"] == len(prepared.rejected)


def test_warnings_are_counted_beyond_those_listed(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "MOST_WARNINGS", 3)
    config = make_config()
    write_jsonl(Path(config.data.train), rows(5) * 4)
    prepared = prepare.run(config)
    assert len(prepared.train) == 20 and len(prepared.problems) == 3
    assert prepared.stats["num_by_kind"] == {"duplicate": 15}


def test_cache_folder_that_cannot_be_made(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORAWRIGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written") as caught:
        prepare.run(make_config())
    assert "LORAWRIGHT_CACHE" in str(caught.value.hint)


def test_a_failed_check_leaves_no_temporary_folder(tmp_path: Path) -> None:
    """A missing file has no content to cache by; what is built for it goes with the process."""
    code = (
        "from lorawright.dataset import prepare; from lorawright.config import Config; "
        "prepare.run(Config.model_validate({'model': {'name': 'tiny'}, 'data': {'train': './no'}}))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []
