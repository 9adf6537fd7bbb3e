"""Verbs that write into a run: one at a time, asked before the work, with an unchanged adapter."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import rows, write_jsonl

from lorawright import hub
from lorawright.cli import run as command
from lorawright.config import Config
from lorawright.errors import LorawrightError, ModelError, RunFolderError
from lorawright.evaluation import run
from lorawright.exporters import gguf, merge, ollama, vllm
from lorawright.model import load, tuned
from lorawright.run import lock, owned
from lorawright.run.events import Event, StepFinished
from lorawright.run.folder import RunFolder, read_config
from lorawright.run.names import LOCK
from lorawright.training import train
from lorawright.training.train import Start
from lorawright.types import GgufType

MakeConfig = Callable[..., Config]
Verb = Callable[[RunFolder, Config], Any]


def quiet(what: str, num_done: int, num_all: int) -> None:
    """No progress."""


VERBS: dict[str, Verb] = {
    "merge": lambda folder, config: merge.run(folder, config),
    "gguf": lambda folder, config: gguf.run(folder, config, gguf.Options(), quiet),
    "ollama": lambda folder, config: ollama.run(folder, config, gguf.Options(), quiet),
    "vllm": lambda folder, config: vllm.run(folder, config),
    "evaluate": lambda folder, config: run.run(folder, config),
}
NAMES = {"gguf": "export", "ollama": "export", "vllm": "export"}


def untouchable(*_: object, **__: object) -> Path:
    pytest.fail("the work has begun")


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_that_is_trained_takes_no_results(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    folder = RunFolder(own_run)
    config = read_config(folder)
    monkeypatch.setattr(tuned, "adapter_folder", untouchable)
    monkeypatch.setattr(hub, "model_folder", untouchable)
    with lock.held(own_run, LOCK), pytest.raises(RunFolderError, match="by `lorawright train`"):
        VERBS[verb](folder, config)


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_that_a_verb_writes_into_is_not_trained(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Neither begun anew nor gone on with; and the lock is gone when the verb has ended."""
    folder = RunFolder(own_run)
    config, said = read_config(folder), []
    training = config.training.model_copy(update={"output": str(own_run)})  # a copy names another
    config = config.model_copy(update={"training": training})

    def meanwhile(*_: object, **__: object) -> None:
        for start in (Start.OVERWRITE, Start.RESUME):
            with pytest.raises(RunFolderError, match=f"`lorawright {NAMES.get(verb, verb)}`"):
                train.run(config, start=start)
            said.append(start)
        raise ModelError("that was all", where="here", hint="none")

    for module, name in ((tuned, "adapter_folder"), (hub, "model_folder")):
        monkeypatch.setattr(module, name, meanwhile)
    with pytest.raises(ModelError, match="that was all"):
        VERBS[verb](folder, config)
    assert len(said) == 2 and not (own_run / LOCK).exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("verb", VERBS)
def test_a_run_that_cannot_be_written_is_said_at_once(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, verb: str, number: int
) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise OSError(number, "no", str(path))

    config = read_config(RunFolder(own_run))
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(tuned, "adapter_folder", untouchable)
    with pytest.raises(RunFolderError, match="cannot be written: no") as caught:
        VERBS[verb](RunFolder(own_run), config)
    assert caught.value.where == str(own_run)
    assert f"`lorawright {NAMES.get(verb, verb)}`" in str(caught.value.hint)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_result_that_cannot_be_written_is_one_line(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr(RunFolder, "write_json", refuse)
    for arguments in (["export", str(own_run), "--to", "vllm"],
                      ["evaluate", str(own_run), "--samples", "0"]):  # fmt: skip
        assert command(arguments) == 1
        said = capsys.readouterr().err
        assert "no more" in said and "unexpected" not in said and str(own_run) in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["chat", "RUN", "--prompt", "Hi"],
        ["merge", "RUN"],
        ["export", "RUN", "--to", "gguf"],
        ["export", "RUN", "--to", "ollama"],
        ["export", "RUN", "--to", "vllm"],
        ["evaluate", "RUN"],
        ["push", "RUN", "somebody/something", "--base-model", "somebody/base", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_flipped_byte_of_the_adapter_is_one_line(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:  # fmt: skip
    path = own_run / "adapter" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    monkeypatch.setattr(load, "load_base", untouchable)
    assert command([one.replace("RUN", str(own_run)) for one in arguments]) == 1
    said = capsys.readouterr().err
    assert f"{path}: has changed since it was written" in said and "unexpected" not in said


def exported(path: Path, folder: RunFolder, *, overwrite: bool = True) -> None:
    gguf.refuse_taken(path, folder, overwrite=overwrite)


def test_a_gguf_is_replaced_only_if_it_is_ours(own_run: Path, tmp_path: Path) -> None:
    folder, output = RunFolder(own_run), tmp_path / "out"
    output.mkdir()
    path, mine = output / "run-f16.gguf", output / "mine.gguf"
    exported(path, folder, overwrite=False)
    for one in (path, mine):
        one.write_bytes(b"GGUF")
        with pytest.raises(RunFolderError, match="is there already"):
            exported(one, folder, overwrite=False)
        with pytest.raises(RunFolderError, match="was not written by lorawright"):
            exported(one, folder)
    gguf.note_written(path)
    exported(path, folder)
    with pytest.raises(RunFolderError, match="was not written by lorawright"):
        exported(mine, folder)
    path.unlink()
    path.symlink_to(mine)
    with pytest.raises(RunFolderError, match="was not written by lorawright"):
        exported(path, folder)
    assert mine.read_bytes() == b"GGUF"


@pytest.mark.parametrize("name", ["run-f16.gguf", "run-f16.tmp.gguf", owned.MARKER])
def test_an_export_writes_over_nothing_of_others(own_run: Path, tmp_path: Path, name: str) -> None:
    """Neither over a file of its name, nor over one where it writes first, nor over a marker."""
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_bytes(b"mine")
    options = gguf.Options((GgufType.F16,), output, overwrite=True)
    with pytest.raises(LorawrightError, match="lorawright"):
        gguf.run(RunFolder(own_run), read_config(RunFolder(own_run)), options, quiet)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {name: b"mine"}


def test_an_ollama_folder_is_written_twice_and_keeps_a_modelfile(
    own_run: Path, tmp_path: Path
) -> None:
    folder, output = RunFolder(own_run), tmp_path / "out"
    config = read_config(folder)
    options = gguf.Options((GgufType.F16,), output, overwrite=True)
    ollama.run(folder, config, options, quiet)
    (output / "notes.txt").write_bytes(b"mine")
    ollama.run(folder, config, options, quiet)
    marker = owned.read(output)
    assert marker is not None and set(marker.files) == {"run-f16.gguf", "Modelfile"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "Modelfile").write_bytes(b"FROM mine")
    with pytest.raises(RunFolderError, match="was not written by lorawright"):
        ollama.run(folder, config, gguf.Options((GgufType.F16,), other, overwrite=True), quiet)
    assert (other / "Modelfile").read_bytes() == b"FROM mine"


PAGE = b"<!doctype html><title>Notes on lorawright</title>mine"


def test_pages_are_written_over_pages_only(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data" / "train.jsonl", rows(4))
    (tmp_path / "c.yaml").write_text("model: {name: tiny}\ndata: {train: data/train.jsonl}\n")
    written: list[tuple[list[str], str]] = [
        (["report", str(own_run), "--out", "a.html"], "a.html"),
        (["report", str(own_run), str(own_run), "--out", "b.html"], "b.html"),
        (["report", str(own_run), str(own_run)], "comparison.html"),
        (["inspect", "c.yaml", "--html", "d.html"], "d.html"),
        (["recipes", "qwen2.5-0.5b-lora", "e.yaml"], "e.yaml"),
    ]
    for arguments, name in written:
        path = tmp_path / name
        path.write_bytes(PAGE)
        assert command(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert name in said and "another" in said
        assert path.read_bytes() == PAGE
        path.unlink()
        if name != "e.yaml":
            assert command(arguments) == command(arguments) == 0
            assert b"lorawright" in path.read_bytes()


def test_chats_that_change_while_they_are_trained(make_config: MakeConfig, tmp_path: Path) -> None:
    """They were read before the first step: the run is the one of the chats as they were."""
    config = make_config(num_rows=8)
    path, whole = Path(config.data.train), Path(config.data.train).read_bytes()
    done = train.run(config)
    before = (done.folder.adapter / "adapter_model.safetensors").read_bytes()

    def change(event: Event) -> None:
        if isinstance(event, StepFinished):
            path.write_bytes(b"{}\n")

    train.run(config, start=Start.OVERWRITE, tell=change)
    assert (done.folder.adapter / "adapter_model.safetensors").read_bytes() == before
    assert path.read_bytes() != whole


def test_a_base_that_changed_after_training(make_config: MakeConfig, tmp_path: Path) -> None:
    """One byte within a stretch that is read: no verb goes on with it."""
    base = tmp_path / "base"
    base.mkdir()
    for one in hub.model_folder("tiny").iterdir():
        (base / one.name).write_bytes(one.read_bytes())
    config = make_config(num_rows=6, max_steps=2, save_steps=1)
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"name": str(base)})}
    )
    folder = train.run(config).folder
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) * 40 // 64 + 100] ^= 1
    weights.write_bytes(content)
    torch.manual_seed(0)
    for verb in VERBS.values():
        with pytest.raises(ModelError, match="holds other weights than the base"):
            verb(folder, config)
    with pytest.raises(LorawrightError, match=r"base|weights"):
        train.run(config, start=Start.RESUME)
