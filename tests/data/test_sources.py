"""What `data.train` may name, and what is said when it names nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorawright.config.schema import DataSettings
from lorawright.data import Reader
from lorawright.data.sources import DataFile, HubSet, find_sources, load_split
from lorawright.data.tables import rows_of
from lorawright.errors import DataError
from lorawright.types import Kind, Problem, Split

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
LINE = json.dumps(ROW) + "\n"


def names(source: Path | str, use: Split = Split.TRAIN) -> list[str]:
    found = find_sources(str(source), use)
    assert all(isinstance(part, DataFile) for part in found)
    return [part.name for part in found]


def test_folder_is_read_sorted_recursive_and_without_what_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "d/b.jsonl",
        "d/a/z.parquet",
        "d/a.json",
        "d/c.ndjson",
        "d/.hidden.jsonl",
        "d/.git/x.jsonl",
        "d/README.md",
        "d/readme.json",
        "d/dataset_info.json",
        "d/state.json",
        "d/cache-123.arrow",
        "d/notes.txt",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(LINE)
    assert names("d") == ["d/a/z.parquet", "d/a.json", "d/b.jsonl", "d/c.ndjson"]
    assert names(tmp_path / "d") == names("d"), "inside the current folder: relative"


def test_file_outside_the_current_folder_is_named_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "x.jsonl").write_text(LINE)
    monkeypatch.chdir(tmp_path / "here")
    assert names(tmp_path / "x.jsonl") == [str(tmp_path / "x.jsonl")]
    assert names("../x.jsonl") == ["../x.jsonl"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/x.jsonl").write_text(LINE)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "d")
    assert [Path(name).name for name in names(tmp_path / "d")] == ["x.jsonl"]


def test_saved_dataset_dict_keeps_its_splits_apart(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data-00000-of-00001.arrow").write_text("")
        (tmp_path / split / "state.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert [Path(n).parent.name for n in names(tmp_path)] == ["train"]
    assert [Path(n).parent.name for n in names(tmp_path, Split.EVAL)] == ["validation"]


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["README.md", "dataset_info.json"]])
def test_folder_without_data_is_named_with_the_extensions(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="without data files") as error:
        find_sources(str(tmp_path), Split.TRAIN)
    assert error.value.where == str(tmp_path)
    assert ".jsonl" in str(error.value.hint) and ".parquet" in str(error.value.hint)


def test_folder_named_like_a_file_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x.jsonl"
    folder.mkdir()
    with pytest.raises(DataError, match="is a folder without data files"):
        find_sources(str(folder), Split.TRAIN)
    (folder / "x.jsonl").mkdir()
    (folder / "y.jsonl").write_text(LINE)
    assert names(folder) == [str(folder / "y.jsonl")]


def test_unknown_extension_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"ends in `\.txt`, expected one of: \.jsonl"):
        find_sources(str(tmp_path / "x.txt"), Split.TRAIN)


def test_missing_path_hints_at_its_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text(LINE)
    for source in ("data/trian.jsonl", "./data/trian", str(tmp_path / "data/train"), "data/train"):
        with pytest.raises(DataError, match="no such file or folder") as error:
            find_sources(source, Split.TRAIN)
        assert error.value.where == source
        assert error.value.hint == "did you mean `data/train.jsonl`?"


def test_only_a_plausible_name_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source, id, config, split in (
        ("org/name", "org/name", None, None),
        ("hf://org/name", "org/name", None, None),
        ("hf://org/na.me-1:test", "org/na.me-1", None, "test"),
        ("hf://org/name/main:train[:10%]", "org/name", "main", "train[:10%]"),
    ):
        assert find_sources(source, Split.EVAL) == [HubSet(id, config, split, Split.EVAL)]
    for source in ("/org/name", "./org/name", "org/name.jsonl", "a/b/c", "name", "hf://", "a b/c"):
        with pytest.raises(DataError, match="no such file or folder"):
            find_sources(source, Split.TRAIN)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with two splits that `load_dataset` takes as it takes one from the hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(LINE * 3)
    (folder / "test.jsonl").write_text(LINE * 2)
    return folder


def test_hub_split_follows_the_use(hub_folder: Path) -> None:
    for use, wanted, num_rows in ((Split.TRAIN, "train", 3), (Split.EVAL, "test", 2)):
        split, dataset = load_split(HubSet(str(hub_folder), None, None, use))
        assert (split, len(dataset)) == (wanted, num_rows)
        rows = list(rows_of(dataset.with_format("arrow").iter(2), f"hf://x/y:{split}"))
        assert [(row.file, row.line) for row in rows] == [
            (f"hf://x/y:{wanted}", number) for number in range(1, num_rows + 1)
        ]
        assert rows[0].value == ROW


def test_unknown_hub_split_is_one_line(hub_folder: Path) -> None:
    with pytest.raises(DataError, match='Unknown split "zz"') as error:
        load_split(HubSet(str(hub_folder), None, "zz", Split.TRAIN))
    assert "\n" not in error.value.what


def test_unreachable_hub_fails_fast_in_one_line() -> None:
    code = (
        "from lorawright.data import Reader; from lorawright.config.schema import DataSettings\n"
        "for p in Reader(DataSettings(train='org/name', eval='hf://org/other:test')):"
        " print(p.where, '|', p.message, '|', p.hint)"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    train, evaluation = done.stdout.splitlines()
    assert train.startswith("hf://org/name | is no local file or folder, and the hub at http://127")
    assert "HF_ENDPOINT can name a mirror" in train and "local folder" in train
    assert evaluation.startswith("hf://org/other |")
    assert time.monotonic() - started < 20, "datasets alone retries for 23 seconds a set"


def test_missing_train_and_broken_eval_are_both_listed(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(LINE + "{broken\n")
    settings = DataSettings(train=str(tmp_path / "train.jsonl"), eval=str(tmp_path / "eval.jsonl"))
    problems = [item for item in Reader(settings) if isinstance(item, Problem)]
    assert [(p.kind, p.split, p.line) for p in problems] == [
        (Kind.FILE, Split.TRAIN, None),
        (Kind.SYNTAX, Split.EVAL, 2),
    ]
    assert "eval.jsonl" in problems[0].hint


def test_import_is_cheap() -> None:
    code = (
        "import sys, lorawright.data\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
