"""What a run may remove: its own files by name, from a folder with its marker; nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.cli import quickstart
from lorawright.config import Config
from lorawright.errors import ConfigError, LorawrightError, ModelError, RunFolderError
from lorawright.run import checkpoint, files, lock, outputs, owned
from lorawright.run import names as run_names
from lorawright.run.events import Event, Noted, silent
from lorawright.run.folder import RunFolder
from lorawright.run.owned import Kind, Marker
from lorawright.training import claim, failures, train
from lorawright.training.claim import Start

MakeConfig = Callable[..., Config]
Tree = dict[str, bytes]

OURS = (
    "config.yaml", "environment.json", "certificate.json", "data.json", "rejected.jsonl",
    "plan.json", "rows.json", "report.html", "merge.json", "launch/job.json", "launch/output.log",
    "tensorboard/events.out.tfevents.1.host", "adapter.tmp/adapter_model.safetensors",
    "checkpoints/checkpoint-4/optimizer.pt", "checkpoints/checkpoint-4/adapter_model.safetensors",
    "checkpoints/checkpoint-2.broken/scheduler.pt", "vllm/chat_template.jinja",
    "lm-eval/tiny/results_2026.json",
)  # fmt: skip
# names that look like ours, or lie in our folders, and are not what a run writes
FOREIGN = (
    "notes.txt", "config.yml", "config.yaml.bak", "lorawright.json.bak", "checkpoints/notes.txt",
    "checkpoints/best/adapter_model.safetensors", "checkpoints/checkpoint-4/notes.txt",
    "checkpoints/checkpoint-4-copy/optimizer.pt", "checkpoints/checkpoint-x/optimizer.pt",
    "adapter/readme", "adapter/old/adapter_model.safetensors", "merged/mine.gguf",
    "gguf/other-f16.gguf", "ollama/mine/Modelfile", "launch/start.sh", "launch/machine-1/me.txt",
    "tensorboard/mine.png", "vllm/serve.sh", "data/train/chats.jsonl", "runs/a/config.yaml",
    "runs/a/checkpoints/checkpoint-4/optimizer.pt", "metrics.jsonl.gz", ".git/config",
)  # fmt: skip
trees = st.dictionaries(st.sampled_from(FOREIGN), st.binary(max_size=8), max_size=9)
links = st.sets(st.sampled_from(["link", "adapter/link", "checkpoints/checkpoint-9", "merged.tmp"]))


def plant(root: Path, tree: Tree) -> None:
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def link(root: Path, names: set[str], goal: Path) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(goal)


def contents(root: Path) -> Tree:
    return {name: (root / name).read_bytes() for name in owned.files_in(root)
            if not (root / name).is_symlink()}  # fmt: skip


def is_run(root: Path) -> None:
    plant(root, dict.fromkeys(OURS, b"ours"))
    owned.mark(root, Marker(Kind.RUN))
    adapter = root / "adapter"
    plant(adapter, {"adapter_model.safetensors": b"ours"})
    owned.mark(adapter, Marker(Kind.ADAPTER, ("adapter_model.safetensors",)))


@pytest.fixture(scope="module")
def places() -> Iterator[Callable[[], tuple[Path, Path]]]:
    """A new output's path, and a folder outside with a file that links point at."""
    root = Path(tempfile.mkdtemp(prefix="run-folder-"))
    number = iter(range(1_000_000))

    def make() -> tuple[Path, Path]:
        place = root / str(next(number))
        (place / "outside").mkdir(parents=True)
        plant(place / "outside", {"optimizer.pt": b"precious", "checkpoint-1/optimizer.pt": b"x"})
        return place / "parent" / "run", place / "outside"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda descriptor: None)  # thousands of files
        yield make
    shutil.rmtree(root)


@settings(max_examples=80, deadline=None)
@given(foreign=trees, linked=links)
def test_clearing_a_run_leaves_all_that_is_foreign(
    places: Callable[[], tuple[Path, Path]], foreign: Tree, linked: set[str]
) -> None:
    run, outside = places()
    is_run(run)
    plant(run, foreign)
    linked = {name for name in linked if not os.path.lexists(run / name)}
    link(run, linked, outside)
    kept = RunFolder(run).clear()
    assert contents(run) == foreign
    assert all((run / name).is_symlink() for name in linked)
    assert contents(outside) == {"optimizer.pt": b"precious", "checkpoint-1/optimizer.pt": b"x"}
    tops = {name.split("/")[0] for name in (*foreign, *linked)}
    assert {name.split("/")[0] for name in kept} == tops


@settings(max_examples=80, deadline=None)
@given(
    foreign=trees,
    linked=links,
    stood=st.booleans(),
    written=st.sets(st.sampled_from(OURS)),
    moment=st.integers(0, len(OURS)),
    error=st.sampled_from([KeyboardInterrupt, SystemExit, LorawrightError, OSError, MemoryError]),
)
def test_a_failing_start_leaves_what_stood_before(
    places: Callable[[], tuple[Path, Path]], foreign: Tree, linked: set[str], stood: bool,
    written: set[str], moment: int, error: type[BaseException],
) -> None:  # fmt: skip
    """Whatever ends it, whenever: also files that someone writes there meanwhile."""
    run, outside = places()
    before = foreign if stood else {}
    plant(run, before)
    if stood:
        linked = {name for name in linked if not os.path.lexists(run / name)}
        link(run, linked, outside)
    folders = {path for path in run.parent.rglob("*") if path.is_dir()}
    meanwhile: Tree = {}
    with (
        suppress(BaseException),
        failures.new_folders_removed_on_error(run),
        failures.removed_on_error(RunFolder(run), begins=True),
    ):
        RunFolder(run).begin()
        for number, name in enumerate(sorted(written)):
            if number == moment:
                break
            if not (run / name).parent.is_symlink():
                plant(run, {name: b"ours"})
        meanwhile = {"later.txt": b"theirs"} if moment % 2 else {}
        plant(run, meanwhile)
        raise error("ended")
    assert contents(run) == before | meanwhile
    assert contents(outside) == {"optimizer.pt": b"precious", "checkpoint-1/optimizer.pt": b"x"}
    if not meanwhile:
        assert {path for path in run.parent.rglob("*") if path.is_dir()} == folders
        assert stood or not run.parent.exists()


@settings(max_examples=80, deadline=None)
@given(
    foreign=st.dictionaries(st.sampled_from([*FOREIGN, *OURS]), st.binary(max_size=8), min_size=1),
    start=st.sampled_from(list(Start)),
)
def test_a_folder_without_our_marker_is_never_cleared(
    places: Callable[[], tuple[Path, Path]], foreign: Tree, start: Start
) -> None:
    """Not even where all names are those of a run."""
    run, _ = places()
    plant(run, foreign)
    config = Config.model_validate({"training": {"output": str(run)}})
    folder = RunFolder(run)
    with suppress(LorawrightError):
        claim.refuse(folder, config, start, None)
        with claim.held(folder, config, start):
            claim.clear(folder, silent)
            raise RunFolderError("the model is gone")
    assert contents(run) == foreign
    assert folder.clear() == [] and contents(run) == foreign


@settings(max_examples=80, deadline=None)
@given(foreign=trees, linked=links, fails=st.booleans(), old=st.booleans())
def test_replacing_a_folder_leaves_all_that_is_foreign(
    places: Callable[[], tuple[Path, Path]], foreign: Tree, linked: set[str], fails: bool, old: bool
) -> None:
    """The way of merged models, adapters and ejected scripts."""
    target, outside = places()
    mine = Marker(Kind.MODEL, ("model.safetensors",))
    if old:
        plant(target, foreign | {"model.safetensors": b"old"})
        linked = {name for name in linked if not os.path.lexists(target / name)}
        link(target, linked, outside)
        owned.mark(target, mine)
    beside = {"run.bak/model.safetensors": b"a", "run-tmp/x": b"b"}
    plant(target.parent, beside)
    with suppress(KeyboardInterrupt):
        work = owned.begin_work(target, mine)
        try:
            plant(work, {"model.safetensors": b"new"})
            if fails:
                raise KeyboardInterrupt
            owned.finish_work(work, target, mine, mine if old else None)
        finally:
            owned.drop_work(work)
    expected = foreign if old else {}
    weights = None if fails and not old else b"old" if fails else b"new"
    found = contents(target)
    found.pop(owned.MARKER, None)
    assert found.pop("model.safetensors", None) == weights and found == expected
    assert contents(outside) == {"optimizer.pt": b"precious", "checkpoint-1/optimizer.pt": b"x"}
    others = {name for name in contents(target.parent) if not name.startswith("run/")}
    assert others == set(beside)
    assert not old or all((target / name).is_symlink() for name in linked)


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside/optimizer.pt", "a/../../x", "", "."])
def test_a_list_of_names_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    plant(tmp_path, {"outside/optimizer.pt": b"precious", "x": b"y", "run/a/b": b"c"})
    owned.remove(tmp_path / "run", [name])
    assert len(contents(tmp_path)) == 3


def places_of(tmp_path: Path) -> dict[str, Path]:
    plant(tmp_path, {"project/config.yaml": b"", "project/data/train/a.jsonl": b"{}",
                     "model/config.json": b"{}", "here/x": b"", "me/y": b""})  # fmt: skip
    return {
        "the config's folder": tmp_path / "project",
        "the chats of `data.train`": tmp_path / "project" / "data" / "train",
        "the base model": tmp_path / "model",
        "the current folder": tmp_path / "here",
        "the home folder": tmp_path / "me",
    }


@pytest.mark.parametrize("start", [Start.NEW, Start.OVERWRITE])
@pytest.mark.parametrize("way", ["is", "holds", "link"])
def test_outputs_that_are_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, start: Start
) -> None:
    found = places_of(tmp_path)
    monkeypatch.chdir(found["the current folder"])
    monkeypatch.setenv("HOME", str(found["the home folder"]))
    for what, place in found.items():
        output = {"is": place, "holds": place.parent, "link": tmp_path / f"link to {what[-6:]}"}[
            way
        ]
        if way == "link":
            output.unlink(missing_ok=True)
            output.symlink_to(place)
        config = Config.model_validate(
            {
                "model": {"name": str(found["the base model"])},
                "data": {"train": str(found["the chats of `data.train`"])},
                "training": {"output": str(output)},
            }
        )
        source = found["the config's folder"] / "config.yaml"
        with pytest.raises(ConfigError) as caught:
            claim.refuse(RunFolder(output), config, start, source)
        assert caught.value.where == "training.output" and "--overwrite" not in str(caught.value)
        assert way == "holds" or what in str(caught.value)


@pytest.mark.parametrize("output", [".", "..", "/", "runs/.."])
def test_relative_outputs_and_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate({"training": {"output": output}})
    with pytest.raises(ConfigError, match=r"training\.output"):
        outputs.refuse_unsafe(config, Path("config.yaml"))


def test_an_output_among_the_chats_would_be_read_as_chats(tmp_path: Path) -> None:
    plant(tmp_path, {"data/train/a.jsonl": b"{}"})
    config = Config.model_validate(
        {
            "data": {"train": str(tmp_path / "data" / "train")},
            "training": {"output": str(tmp_path / "data" / "train" / "run")},
        }
    )
    with pytest.raises(ConfigError, match=r"in the folder that `data\.train` reads chats from"):
        outputs.refuse_unsafe(config, None)
    beside = config.model_copy(
        update={"training": config.training.model_copy(update={"output": str(tmp_path / "run")})}
    )
    outputs.refuse_unsafe(beside, tmp_path / "project" / "config.yaml")


def test_a_run_of_an_earlier_version_is_one(tmp_path: Path) -> None:
    """By its environment.json and certificate; and it can be cleared."""
    environment = orjson.dumps({"packages": {"lorawright": "0.1.0"}})
    plant(tmp_path, {"environment.json": environment, "certificate.json": b"{}", "notes": b"mine"})
    folder = RunFolder(tmp_path)
    assert folder.holds_a_run()
    assert folder.clear() == ["notes"] and contents(tmp_path) == {"notes": b"mine"}
    plant(tmp_path, {"environment.json": b'{"packages": {"theirs": 1}}', "certificate.json": b"{}"})
    assert not folder.holds_a_run()


def test_a_link_in_a_run_is_not_written_through(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "metrics.jsonl"
    plant(tmp_path, {"metrics.jsonl": b"mine"})
    is_run(run)
    (run / "metrics.jsonl").symlink_to(elsewhere)
    with pytest.raises(RunFolderError, match="is a link"):
        RunFolder(run).refuse_if_not_clearable()


def test_a_file_that_would_be_written_over_is_refused_without_bad_advice(tmp_path: Path) -> None:
    plant(tmp_path, {"config.yaml": b"model: {}"})
    for check in (RunFolder(tmp_path).refuse_if_taken, RunFolder(tmp_path).refuse_if_not_clearable):
        with pytest.raises(RunFolderError, match=r"holds config\.yaml.*is no run") as caught:
            check()
        assert "--overwrite" not in str(caught.value.hint)


def test_quickstart_writes_over_nothing(tmp_path: Path) -> None:
    plant(tmp_path / "mine", {"config.yaml": b"model: {}", "data/train.jsonl": b"mine"})
    with pytest.raises(RunFolderError, match="is not what an earlier quickstart wrote"):
        quickstart.write(tmp_path / "mine")
    assert contents(tmp_path / "mine")["data/train.jsonl"] == b"mine"
    first = quickstart.write(tmp_path / "first")
    assert quickstart.write(tmp_path / "first") == first


@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_a_changed_adapter_is_one_line(tmp_path: Path, change: str) -> None:
    adapter = tmp_path / "adapter"
    plant(adapter, {"adapter_model.safetensors": bytes(64), "README.md": b"card"})
    digests = owned.digests(adapter, ["adapter_model.safetensors"])
    owned.mark(adapter, Marker(Kind.ADAPTER, ("adapter_model.safetensors", "README.md"), digests))
    run = RunFolder(tmp_path)
    plant(adapter, {"README.md": b"a card of one's own"})
    assert run.finished_adapter() == adapter
    path = adapter / "adapter_model.safetensors"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(63) + b"\x01" if change == "flip" else bytes(30))
    with pytest.raises(ModelError, match="is missing" if change == "gone" else "has changed") as e:
        run.finished_adapter()
    assert e.value.where == str(path) and "--resume" in str(e.value.hint)


def test_a_run_that_fails_at_its_start_leaves_its_neighbours(make_config: MakeConfig) -> None:
    """With a typo in the modules, and an output that holds other runs."""
    config = make_config()
    runs = Path(config.training.output)
    before = {"a/adapter/adapter_model.safetensors": b"finished", "b/config.yaml": b"finished"}
    plant(runs, before)
    lora = config.lora.model_copy(update={"target_modules": ["nope"]})
    with pytest.raises(LorawrightError):
        train.run(config.model_copy(update={"lora": lora}))
    assert contents(runs) == before
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b"]


def test_overwriting_a_run_keeps_a_note(make_config: MakeConfig) -> None:
    """Notes beside and inside survive and are named; nothing of the old run does."""
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    folder = train.run(config).folder
    foreign = {"notes.txt": b"1", "checkpoints/notes.txt": b"2", "adapter/mine/readme": b"3",
               "checkpoints/checkpoint-1/notes.txt": b"4"}  # fmt: skip
    plant(folder.path, foreign)
    noted: list[str] = []

    def keep(event: Event) -> None:
        if isinstance(event, Noted):
            noted.append(event.text)

    once = config.training.model_copy(update={"max_steps": 1})
    again = config.model_copy(update={"training": once})
    train.run(again, start=Start.OVERWRITE, tell=keep)
    assert contents(folder.path).items() >= foreign.items()
    assert any("not ours" in text and "notes.txt" in text for text in noted)
    assert [line["step"] for line in folder.read_metrics()] == [1]
    assert not (folder.checkpoints / "checkpoint-2").exists()
    assert checkpoint.latest(folder.checkpoints) == folder.checkpoints / "checkpoint-1"
    assert folder.finished_adapter() == folder.adapter
    assert not (folder.path / run_names.LOCK).exists()
    lock.refuse_if_held(folder.path, run_names.LOCK)
