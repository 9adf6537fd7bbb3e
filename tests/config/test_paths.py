"""Paths: a config's lead from its file, those of `--set` from here, a run's from the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest
import yaml
from helpers import rows, write_jsonl

from lorawright import hub
from lorawright.cli import run
from lorawright.config import Config, load, load_leniently, paths
from lorawright.errors import DataError
from lorawright.run.folder import RunFolder, read_config
from lorawright.training.artifacts import base_name

Capture = pytest.CaptureFixture[str]
HERE = "model: {name: tiny}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders; commands start in `here`, the config is in `there`."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def write(project: Path, text: str) -> str:
    (project / "there" / "c.yaml").write_text(text, encoding="utf-8")
    return "../there/c.yaml"


def test_a_config_is_relative_to_its_file(project: Path) -> None:
    (project / "there" / "data").mkdir()
    text = "data: {train: data, eval: e.jsonl}\ntraining: {output: run}\n"
    config = load(write(project, text + "template: {generation_tags: t.jinja}\n")).config
    assert (config.data.train, config.data.eval) == ("../there/data", "../there/e.jsonl")
    assert config.template.generation_tags == "../there/t.jinja"
    assert config.training.output == "../there/run"


def test_defaults_are_relative_to_the_file_too(project: Path) -> None:
    (project / "there" / "data").mkdir()
    config = load(write(project, HERE)).config
    assert config.data.train == "../there/data/train"
    assert config.training.output == "../there/runs/qwen2.5-0.5b"


def test_set_is_relative_to_the_current_folder(project: Path) -> None:
    text = "data: {train: data.jsonl}\n"
    overrides = ["data.train=mine.jsonl", "training={output: r}", "data.eval=../e.jsonl"]
    config = load(write(project, text), overrides).config
    assert (config.data.train, config.data.eval) == ("mine.jsonl", "../e.jsonl")
    assert config.training.output == "r"


def test_the_current_folder_is_not_looked_into(project: Path, capsys: Capture) -> None:
    """Chats, and a model, that lie here and not beside the config."""
    write_jsonl(project / "here" / "data" / "train" / "a.jsonl", rows(4))
    path = write(project, HERE + "data: {train: data/train}\n")
    assert load(path).config.data.train == "hf://data/train"
    assert run(["check", path]) == 1
    assert "is a folder here" in capsys.readouterr().err
    (project / "there" / "data").mkdir()  # a folder of that name: a path was meant
    assert run(["check", path]) == 1
    assert "../there/data/train: no such file" in capsys.readouterr().err
    shutil.copytree(hub.model_folder("tiny"), project / "here" / "org" / "model")
    config = load(write(project, "model: {name: org/model}\n")).config
    assert config.model.name == "hf://org/model" and base_name(config.model.name) == "org/model"
    assert run(["check", path, "--set", "model.name=org/model"]) == 1  # the data alone is wrong
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model.name", "tiny", "tiny"),
        ("model.name", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("model.name", "hf://a/b", "hf://a/b"),
        ("model.name", "./a", "../there/./a"),
        ("model.name", "a/b/c", "../there/a/b/c"),
        ("data.train", "hf://a/b", "hf://a/b"),
        ("data.train", "a/b", "hf://a/b"),
        ("data.train", "a/b:train", "hf://a/b:train"),
        ("data.train", "a/b.jsonl", "../there/a/b.jsonl"),
        ("data.train", "a", "../there/a"),
        ("data.eval", "/a/b", "/a/b"),
        ("training.output", "a/b", "../there/a/b"),
    ],
)
def test_names_and_paths(project: Path, name: str, value: str, expected: str) -> None:
    section, key = name.split(".")
    config = load(write(project, f"{section}: {{{key}: '{value}'}}\n")).config
    got = getattr(getattr(config, section), key)
    assert Path(got) == Path(expected) if value.startswith("./") else got == expected


def test_home_is_understood(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    config = load(
        write(project, "data: {train: ~/chats}\n".replace("~", "'~").replace("ts}", "ts'}"))
    )
    assert config.config.data.train == f"{project}/chats"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("data: {train: [a, b]}\n", "put the files into one folder"),
        ("data: {train: 'a.jsonl,b.jsonl'}\n", "put the files into one folder"),
        ("data: {train: 'a/*.jsonl'}\n", "put the files into one folder"),
        ("data: {trian: a}\n", "did you mean `data.train`?"),
        ("data: 5\n", ""),
        ("data: {train: ''}\n", ""),
    ],
)
def test_a_default_is_not_read_in_a_faults_place(
    project: Path, text: str, hint: str, capsys: Capture
) -> None:
    assert run(["check", write(project, HERE + text), "--json"]) == 2
    found = orjson.loads(capsys.readouterr().out)
    (problem,) = found["problems"]  # and no second one of `data/train` on the hub
    assert hint in problem["hint"]


def test_a_misspelt_model_is_not_fetched(project: Path, capsys: Capture) -> None:
    assert run(["check", write(project, "model: {nmae: tiny}\n")]) == 2
    assert "hub" not in capsys.readouterr().err


def test_data_is_read_past_other_problems(project: Path, capsys: Capture) -> None:
    bad = [{"messages": [{"role": "user", "content": None}]}]
    write_jsonl(project / "there" / "a.jsonl", bad)
    assert run(["check", write(project, HERE + "data: {train: a.jsonl}\nlora: {rank: 0}\n")]) == 2
    out = capsys.readouterr().err
    assert "lora.rank" in out and "a.jsonl:1" in out


def test_a_run_works_from_any_folder_and_after_it_was_moved(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Trained with relative paths, from a folder that is neither the config's nor the run's."""
    there = project / "there"
    write_jsonl(there / "data" / "train.jsonl", rows(12))
    write_jsonl(there / "data" / "eval.jsonl", rows(16)[12:])
    shutil.copytree(hub.model_folder("tiny"), there / "models" / "small")
    text = (
        "model: {name: models/small, dtype: float32}\n"
        "data: {train: data/train.jsonl, eval: data/eval.jsonl}\n"
        "training: {output: runs/a, max_steps: 2, batch_size: 2, save_steps: 1, trackers: []}\n"
    )
    assert run(["train", write(project, text)]) == 0, capsys.readouterr().err
    own = there / "runs" / "a" / "config.yaml"
    content = own.read_text()
    assert content.startswith("# This run as it was resolved") and "--data" in content
    plain = yaml.safe_load(content)
    assert plain["training"]["output"] == "."
    assert plain["data"]["train"] == str(there / "data" / "train.jsonl")
    assert plain["model"]["name"] == str(there / "models" / "small")

    moved = project / "moved"
    (there / "runs" / "a").rename(moved)
    monkeypatch.chdir("/")
    assert read_config(RunFolder(moved)).training.output == str(moved)
    for command in (
        ["evaluate", str(moved), "--samples", "0"],
        ["merge", str(moved)],
        ["report", str(moved)],
    ):
        assert run(command) == 0, capsys.readouterr().err
    assert str(there) not in (moved / "report.html").read_text()  # it is made to be shared
    shutil.rmtree(moved / "checkpoints" / "checkpoint-2")
    shutil.rmtree(moved / "adapter")
    assert run(["train", str(moved / "config.yaml"), "--resume"]) == 0, capsys.readouterr().err
    assert (moved / "adapter").is_dir() and not (there / "runs" / "a").exists()
    assert own.parent.exists() is False

    (there / "data").rename(project / "chats")
    capsys.readouterr()
    assert run(["evaluate", str(moved), "--samples", "0"]) == 1
    assert "--data FILE" in capsys.readouterr().err
    data = str(project / "chats" / "eval.jsonl")
    assert run(["evaluate", str(moved), "--samples", "0", "--data", data]) == 0
    overrides = ["--set", f"data.train={project}/chats/train.jsonl", "--set", f"data.eval={data}"]
    shutil.move(there / "models", project / "models")  # the base is known by its weights
    overrides += ["--set", f"model.name={project}/models/small"]
    shutil.rmtree(moved / "adapter")
    command = ["train", str(moved / "config.yaml"), "--resume", *overrides]
    assert run(command) == 0, capsys.readouterr().err


def test_data_inside_the_run_moves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "run" / "chats.jsonl", rows(2))
    config = Config.model_validate(
        {"data": {"train": "run/chats.jsonl"}, "training": {"output": "run"}}
    )
    own = paths.self_contained(config, Path("run"))
    assert own.data.train == "chats.jsonl" and own.model.name == config.model.name
    assert paths.anchored(own, tmp_path / "run").data.train in (
        "run/chats.jsonl",
        f"{tmp_path}/run/chats.jsonl",
    )


def test_an_older_run_still_opens(own_run: Path) -> None:
    """0.1.0 wrote paths as they were given, relative to the folder of then, and `compile`."""
    path = own_run / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("output: .", "output: runs/a")
    path.write_text(text.replace("  trl: {}", "  trl: {neftune_noise_alpha: 5.0}\n  compile: auto"))
    config = read_config(RunFolder(own_run))
    assert config.training.output == "runs/a" and config.training.trl
    assert load_leniently(path).problems  # but it is not trained on that way


def test_moved_data_is_named(own_run: Path, tmp_path: Path) -> None:
    from lorawright.evaluation import chats

    config = read_config(RunFolder(own_run))
    gone = config.model_copy(
        update={"data": config.data.model_copy(update={"eval": str(tmp_path / "gone.jsonl")})}
    )
    with pytest.raises(DataError, match="not there any more"):
        chats.load(gone, None)
