"""What a person types: the same command line in a process of its own, and what it leaves behind.

Nothing here needs the package's insides, so that it can be run against earlier versions too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from forked import Forked

Tree = dict[str, bytes]
CONFIG = """\
model: {name: tiny, dtype: float32}
data: {train: data/train, eval: data/eval}
lora: {dropout: 0.0}
training: {output: runs/a, max_steps: 4, batch_size: 2, save_steps: 2, trackers: []}
"""
PREPARED = "import sys, time, os, hashlib, pathlib\nfrom lorawright.cli import run\n"
END = "\nsys.exit(run(sys.argv[1:]))"
# stands still where training begins: all is written but the first metric
HALTED = """
import transformers
def wait(*_, **__):
    print("training", flush=True)
    while True:
        time.sleep(0.05)
transformers.Trainer.train = wait
"""
# two processes come to the model together, if the second comes at all
TOGETHER = """
from lorawright.model import load as model
before = model.load_base
def meet(*a, **k):
    pathlib.Path(f"met-{os.getpid()}").touch()
    until = time.time() + 20
    while len(list(pathlib.Path().glob("met-*"))) < 2 and time.time() < until:
        time.sleep(0.02)
    return before(*a, **k)
model.load_base = meet
"""
BAD_SECTOR = """
digest = hashlib.file_digest
def read(file, *rest):
    if "checkpoint-4" in str(file.name):
        raise OSError(5, "Input/output error", file.name)
    return digest(file, *rest)
hashlib.file_digest = read
"""


def chats(num: int, what: str) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"What is {what} {n}?"},
                      {"role": "assistant", "content": f"A number, and it is {n}."}]}
        for n in range(num)
    ]  # fmt: skip
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def contents(root: Path) -> Tree:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def command(project: Path, *arguments: str, prepared: str = "") -> Forked:
    return Forked(PREPARED + prepared + END, arguments, project)


def lorawright(
    project: Path, *arguments: str, prepared: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a command in the project; its errors are words, never a traceback."""
    done = completed(project, *arguments, prepared=prepared)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, done.stderr
    return done


def completed(
    project: Path, *arguments: str, prepared: str = ""
) -> subprocess.CompletedProcess[str]:
    with command(project, *arguments, prepared=prepared) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.wait(), out, err)


@contextmanager
def started(project: Path, *arguments: str, prepared: str = "") -> Iterator[Forked]:
    with command(project, *arguments, prepared=prepared) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two finished runs, trained once; copy it."""
    root = tmp_path_factory.mktemp("project")
    for name, num in (("train", 8), ("eval", 2)):
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / "chats.jsonl").write_bytes(chats(num, name))
    (root / "config.yaml").write_text(CONFIG)
    (root / "notes.txt").write_text("mine")
    lorawright(root, "train", "config.yaml")
    shutil.copytree(root / "runs" / "a", root / "runs" / "b")
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "project")
    return tmp_path / "project"


def lost(before: Tree, after: Tree) -> list[str]:
    return [name for name, content in before.items() if after.get(name) != content]


def test_a_failing_start_in_a_folder_of_finished_runs(project: Path) -> None:
    before = contents(project)
    failing = ["--set", "lora.target_modules=[nope]"]
    done = lorawright(
        project, "train", "config.yaml", "--set", "training.output=runs", *failing, code=2
    )
    assert "nope" in done.stderr
    assert contents(project) == before


@pytest.mark.slow
def test_an_output_that_holds_the_chats(project: Path) -> None:
    before = contents(project)
    failing = ["--set", "lora.target_modules=[nope]"]
    with suppress(AssertionError):  # whatever it says: what it leaves is what counts
        lorawright(project, "train", "config.yaml", "--set", "training.output=data", *failing)
    assert contents(project) == before


@pytest.mark.slow
def test_overwriting_the_project(project: Path) -> None:
    before = contents(project)
    for more in (["--overwrite"], []):
        done = completed(project, "train", "config.yaml", "--set", "training.output=.", *more)
        assert lost(before, contents(project)) == []
        assert done.returncode == 2 and "--overwrite" not in done.stderr
        assert "training.output" in done.stderr and "unexpected" not in done.stderr


@pytest.mark.slow
def test_two_interrupts_before_the_first_metric(project: Path) -> None:
    (project / "out").mkdir()
    (project / "out" / "notes.txt").write_text("mine")
    before = contents(project)
    arguments = ["train", "config.yaml", "--set", "training.output=out"]
    with started(project, *arguments, prepared=HALTED) as process:
        while process.stdout.readline() not in ("training\n", ""):
            pass
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert contents(project) == before


@pytest.mark.slow
def test_a_bad_sector_in_a_checkpoint(project: Path) -> None:
    """An unfinished run whose newest checkpoint cannot be read now: nothing is changed."""
    shutil.rmtree(project / "runs" / "a" / "adapter")
    before = contents(project / "runs" / "a" / "checkpoints")
    done = completed(project, "train", "config.yaml", "--resume", prepared=BAD_SECTOR)
    assert contents(project / "runs" / "a" / "checkpoints") == before
    assert done.returncode == 1 and "cannot be read: Input/output error" in done.stderr
    assert "checkpoint-4" in done.stderr and "Traceback" not in done.stderr
    lorawright(project, "train", "config.yaml", "--resume")
    assert lost(before, contents(project / "runs" / "a" / "checkpoints")) == []


@pytest.mark.slow
def test_two_trainings_of_one_output(project: Path) -> None:
    """Started at once: one trains, the other says that it does; no step is there twice."""
    arguments = ["train", "config.yaml", "--set", "training.output=runs/new"]
    with (
        started(project, *arguments, prepared=TOGETHER) as first,
        started(project, *arguments, prepared=TOGETHER) as second,
    ):
        while first.poll() is None and second.poll() is None:
            time.sleep(0.05)
        (project / "met-nobody-more").touch()  # one has ended: the other need not wait for it
        ends = [(process.communicate(timeout=120)[1], process.returncode)
                for process in (first, second)]  # fmt: skip
    (_, fine), (said, refused) = sorted(ends, key=lambda end: end[1])
    assert (fine, refused) == (0, 1) and "is in use by" in said
    lines = (project / "runs" / "new" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == [1, 2, 3, 4]
    assert not list((project / "runs" / "new").glob("lock*"))


@pytest.mark.slow
def test_a_flipped_byte_of_the_adapter(project: Path) -> None:
    path = project / "runs" / "a" / "adapter" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    done = lorawright(project, "merge", "runs/a", code=1)
    assert "has changed since it was written" in done.stderr
    assert not (project / "runs" / "a" / "merged").exists()


@pytest.mark.slow
def test_a_training_that_is_stopped_and_continued(project: Path) -> None:
    """SIGSTOP, as Ctrl-Z sends it: the folder stays held, and it goes on as if nothing had been."""
    run = project / "runs" / "new"
    arguments = ["train", "config.yaml", "--set", "training.output=runs/new"]
    with started(project, *arguments) as process:
        while not (run / "lock.json").exists() and process.poll() is None:
            time.sleep(0.01)
        for _ in range(5):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            lorawright(project, *arguments, "--overwrite", code=1)
            os.kill(process.pid, signal.SIGCONT)
        assert process.wait(timeout=120) == 0
    adapter = "adapter/adapter_model.safetensors"
    assert (run / adapter).read_bytes() == (project / "runs" / "a" / adapter).read_bytes()
