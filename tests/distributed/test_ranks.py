"""The same run in several processes: real engines, two processes, the tiny model."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from helpers import rows, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.config import Config
from lorawright.distributed.ranks import free_port
from lorawright.errors import TrainError
from lorawright.plan import run_plan
from lorawright.run import checkpoint
from lorawright.run.events import Event, MetricsLogged, silent
from lorawright.run.folder import RunFolder
from lorawright.training import train
from lorawright.training.train import Start

SERVER = Path(__file__).parents[2] / "tools" / "rank_server.py"
STRATEGIES = ["ddp", "zero1", "zero2", "zero3", "fsdp2"]
DROPOUT = 0.05
NUM_ROWS = 11  # in batches of 4: the last step of an epoch has 3 chats for two processes


class Ranks:
    """Two processes at a time, forked from one that has imported everything."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with open(log, "wb") as words:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"

    def train(self, config: Config, start: Start = Start.NEW) -> RunFolder:
        job = train.prepare_only(config, start)
        assert self.ask([job, job]) == [0, 0], self.words()
        return RunFolder(Path(config.training.output))

    def ask(self, jobs: list[Path], **other: int | str) -> list[int]:
        """Exit codes of a process for each job."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"jobs": [str(job) for job in jobs], "port": free_port()}
        self._process.stdin.write(json.dumps(request | other) + "\n")
        self._process.stdin.flush()
        codes: list[int] = json.loads(self._process.stdout.readline())
        return codes

    def words(self) -> str:
        """The last of what the processes have printed."""
        return self.log.read_text()[-4000:]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    server = Ranks(tmp_path_factory.mktemp("ranks") / "log")
    yield server
    server.close()


MakeRun = Callable[..., Config]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRun]:
    """A config of its own folder; 3 steps of 4 chats in passes of one or two."""
    data = tmp_path_factory.mktemp("data")
    made = rows(NUM_ROWS + 3)
    train_set = write_jsonl(data / "train.jsonl", made[:NUM_ROWS])
    eval_set = write_jsonl(data / "eval.jsonl", made[NUM_ROWS:])

    def make(
        strategy: str, *, dropout: float | None = None, num_machines: int = 1, **training: object
    ) -> Config:
        number = 1 if strategy == "none" else 2
        settings = {
            "output": str(tmp_path_factory.mktemp("run") / "run"),
            "epochs": 1,
            "batch_size": 4,
            "tokens_per_pass": 64,
            "learning_rate": 2e-3,
            "trackers": [],
            "eval_steps": 2,
            "save_steps": 1,
            "gradient_checkpointing": False,
            **training,
        }
        return Config.model_validate(
            {
                "model": {"name": "tiny", "dtype": "float32"},
                "data": {"train": str(train_set), "eval": str(eval_set)},
                "lora": {"dropout": DROPOUT if dropout is None else dropout},
                "training": settings,
                "distributed": {
                    "strategy": strategy,
                    "num_processes": number,
                    "num_machines": num_machines,
                },
            }
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield make


@pytest.fixture(scope="session")
def alone(make_run: MakeRun) -> Callable[[float], RunFolder]:
    """The run in one process, once a rate of dropout."""
    return functools.cache(lambda dropout: train.run(make_run("none", dropout=dropout)).folder)


@pytest.fixture(scope="session")
def undisturbed(ranks: Ranks, make_run: MakeRun) -> Callable[[str], RunFolder]:
    """The run in two processes, once a strategy."""
    return functools.cache(lambda strategy: ranks.train(make_run(strategy)))


def values(folder: RunFolder, name: str) -> list[float]:
    return [line[name] for line in folder.read_metrics() if name in line]


def assert_equal(folder: RunFolder, other: RunFolder, relative: float) -> None:
    """The same losses, gradient norms, evaluations and, to Adam's rounding, the same adapter."""
    for name in ("loss", "eval_loss", "grad_norm", "token_accuracy", "tokens", "trained_tokens"):
        assert values(folder, name) == pytest.approx(values(other, name), rel=relative), name
    assert values(folder, "step") == values(other, "step")
    found, wanted = (
        load_file(run.adapter / "adapter_model.safetensors") for run in (folder, other)
    )
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


def assert_bit_equal(folder: RunFolder, other: RunFolder) -> None:
    """Every metric that no clock decides, each step once, and every weight."""
    clocked = ("seconds", "tokens_per_second", "eval_seconds")
    found, wanted = (
        [{k: v for k, v in line.items() if k not in clocked} for line in run.read_metrics()]
        for run in (folder, other)
    )
    assert found == wanted
    tensors, expected = (
        load_file(run.adapter / "adapter_model.safetensors") for run in (folder, other)
    )
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_take_the_same_steps(
    strategy: str,
    undisturbed: Callable[[str], RunFolder],
    alone: Callable[[float], RunFolder],
) -> None:
    """With dropout too: it depends on step and chat, not on the process."""
    relative = 1e-6 if strategy == "ddp" else 1e-5
    assert_equal(undisturbed(strategy), alone(DROPOUT), relative)


def test_the_adapter_is_plain_peft(undisturbed: Callable[[str], RunFolder]) -> None:
    """An adapter that was trained in shards loads without us, whole and unlike the start."""
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(undisturbed("fsdp2").adapter))
    changed = [p for name, p in loaded.named_parameters() if "lora_B" in name]
    assert changed and all(bool(p.abs().sum() > 0) for p in changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "victim", "lines"),
    [("ddp", 0, 1), ("zero1", 1, 2), ("zero3", 1, 1), ("fsdp2", 0, 2)],
)
def test_kill_and_resume_is_bit_equal(
    strategy: str,
    victim: int,
    lines: int,
    ranks: Ranks,
    make_run: MakeRun,
    undisturbed: Callable[[str], RunFolder],
) -> None:
    """`kill -9` on one process: the others end, and the resumed run is the undisturbed one."""
    config = make_run(strategy)
    folder = RunFolder(Path(config.training.output))
    job = train.prepare_only(config, Start.NEW)
    strike = {"victim": victim, "signal": 9, "metrics": str(folder.metrics), "lines": lines}
    codes = ranks.ask([job, job], **strike)
    assert codes[victim] == -9 and codes[1 - victim] in (1, -6, -9), ranks.words()
    assert not folder.adapter.exists()
    ranks.train(config, Start.RESUME)
    assert_bit_equal(folder, undisturbed(strategy))


def test_sigterm_on_one_process_saves_and_stops_all(
    ranks: Ranks, make_run: MakeRun, undisturbed: Callable[[str], RunFolder]
) -> None:
    config = make_run("ddp", save_steps=50)
    folder = RunFolder(Path(config.training.output))
    job = train.prepare_only(config, Start.NEW)
    # the first line is the base's evaluation: a stop there comes before any step to save
    strike = {"victim": 1, "signal": 15, "metrics": str(folder.metrics), "lines": 2}
    assert ranks.ask([job, job], **strike) == [0, 0]
    assert checkpoint.latest(folder.checkpoints) is not None and not folder.adapter.exists()
    ranks.train(config, Start.RESUME)
    assert_bit_equal(folder, undisturbed("ddp"))


@pytest.mark.slow
def test_two_machines_take_the_same_steps(
    ranks: Ranks, make_run: MakeRun, alone: Callable[[float], RunFolder]
) -> None:
    """Each machine has prepared for itself; they meet over the network, here the loopback."""
    first = make_run("zero1", num_machines=2)
    settings = first.distributed.model_copy(update={"machine_rank": 1})
    second = first.model_copy(update={"distributed": settings})
    jobs = [train.prepare_only(config, Start.NEW) for config in (first, second)]
    assert len(set(jobs)) == 2
    assert ranks.ask(jobs) == [0, 0], ranks.words()
    assert_equal(RunFolder(Path(first.training.output)), alone(DROPOUT), 1e-5)


def test_machines_with_other_data_do_not_begin(
    ranks: Ranks, make_run: MakeRun, tmp_path: Path
) -> None:
    config = make_run("ddp", num_machines=2)
    rest = write_jsonl(tmp_path / "train.jsonl", rows(NUM_ROWS - 1))
    settings = config.distributed.model_copy(update={"machine_rank": 1})
    data = config.data.model_copy(update={"train": str(rest)})
    other = config.model_copy(update={"distributed": settings, "data": data})
    jobs = [train.prepare_only(one, Start.NEW) for one in (config, other)]
    assert ranks.ask(jobs) == [1, 1]
    assert "rank 1: its run is another one than rank 0's: data was" in ranks.words()


@pytest.mark.parametrize("strategy", ["ddp", "zero1"])
def test_a_step_that_is_not_finite_is_not_applied(
    strategy: str, ranks: Ranks, make_run: MakeRun
) -> None:
    away = {"learning_rate": 10, "weight_decay": 100, "max_grad_norm": 0.0}
    config = make_run(strategy, save_steps=50, **away)
    job = train.prepare_only(config, Start.NEW)
    assert ranks.ask([job, job]) == [1, 1]
    words = ranks.words()
    assert "train.jsonl:" in words and ("is nan" in words or "is not finite" in words)
    folder = RunFolder(Path(config.training.output))
    assert not folder.adapter.exists() and checkpoint.latest(folder.checkpoints) is None


@pytest.mark.slow
def test_a_launched_run_names_the_process_that_was_killed(
    ranks: Ranks, make_run: MakeRun, undisturbed: Callable[[str], RunFolder]
) -> None:
    """All the way: accelerate starts two processes, one is killed, the run ends and is resumed."""
    config = make_run("ddp")
    folder = RunFolder(Path(config.training.output))

    def kill(event: Event) -> None:
        if isinstance(event, MetricsLogged) and event.line["step"] == 1 and "loss" in event.line:
            processes = psutil.Process().children(recursive=True)
            (victim,) = [one for one in processes if one.environ().get("RANK") == "1"]
            victim.kill()

    with pytest.raises(TrainError, match=r"process 1 \(pid \d+\) was killed by SIGKILL"):
        train.run(config, tell=kill)
    ranks.train(config, Start.RESUME)
    assert_bit_equal(folder, undisturbed("ddp"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_shared_prefixes_and_checkpointing_change_nothing(
    strategy: str, ranks: Ranks, make_run: MakeRun, tmp_path: Path
) -> None:
    """A prefix longer than a pass: collected, used by several passes, given its gradient."""
    system = {"role": "system", "content": "You keep a shop of many fine things. " * 40}
    made = [{"messages": [system, *row["messages"]]} for row in rows(NUM_ROWS)]
    path = write_jsonl(tmp_path / "train.jsonl", made)

    def config(name: str) -> Config:
        run = make_run(
            name, dropout=0.0, batch_size=NUM_ROWS, tokens_per_pass=780, epochs=2,
            gradient_checkpointing=True, save_steps=50,
        )  # fmt: skip
        data = run.data.model_copy(update={"train": str(path)})
        return run.model_copy(update={"data": data})

    one = run_plan.make(config("none"), silent).steps[0]
    assert one.num_computed_tokens < one.num_tokens / 2 and len(one.passes[0]) > 1
    assert_equal(ranks.train(config(strategy)), train.run(config("none")).folder, 1e-5)
