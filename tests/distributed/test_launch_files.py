"""One config → accelerate's and DeepSpeed's files, commands, scripts; strategies by what fits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config import load_config_from_file

from lorawright.cli import run
from lorawright.config import Config
from lorawright.config.schema import DistributedSettings, Strategy
from lorawright.distributed import launch_files, scripts
from lorawright.distributed.scripts import Scheduler
from lorawright.errors import ConfigError
from lorawright.hardware import Device, Hardware
from lorawright.plan import strategy
from lorawright.plan.estimate import Memory
from lorawright.plan.setting import Setting

MakeConfig = Callable[..., Config]
GPUS = Hardware(Device.CUDA, "a GPU", True, 80 * 10**9, 8, 16)
CPU = Hardware(Device.CPU, "a CPU", False, 16 * 10**9, 1, 8)


def with_processes(config: Config, **settings: object) -> Config:
    distributed = DistributedSettings.model_validate({"num_processes": 2, **settings})
    return config.model_copy(update={"distributed": distributed})


def files(config: Config, device: Device = Device.CPU) -> dict[str, str]:
    found = launch_files.files(config, device, Path("launch"))
    return {path.name: text for path, text in found.items()}


@pytest.mark.parametrize("name", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_accelerate_reads_its_file(name: str, make_config: MakeConfig, tmp_path: Path) -> None:
    """Its own reader takes every key."""
    found = files(with_processes(make_config(), strategy=name))
    path = tmp_path / "accelerate.yaml"
    path.write_text(found["accelerate.yaml"])
    read = load_config_from_file(str(path))
    assert read.num_processes == 2
    assert str(read.distributed_type.value) in ("MULTI_GPU", "DEEPSPEED", "FSDP")
    assert ("deepspeed.json" in found) == name.startswith("zero")


def test_numbers_come_from_the_config(make_config: MakeConfig) -> None:
    """The seed's four places for one number are one; batch and accumulation follow the plan."""
    config = with_processes(
        make_config(max_grad_norm=0.7), strategy="zero3", offload_optimizer=True,
        offload_parameters=True, num_machines=2, main_address="10.0.0.1", main_port=1234,
    )  # fmt: skip
    found = files(config)
    engine = json.loads(found["deepspeed.json"])
    assert engine["gradient_clipping"] == 0.7
    assert engine["zero_optimization"]["stage"] == 3
    assert engine["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert engine["zero_optimization"]["offload_param"]["device"] == "cpu"
    accelerate = yaml.safe_load(found["accelerate.yaml"])
    assert accelerate["main_process_ip"] == "10.0.0.1"
    assert accelerate["main_process_port"] == 1234 and accelerate["num_machines"] == 2


def test_one_process_needs_no_files(make_config: MakeConfig) -> None:
    config = with_processes(make_config(), strategy="none", num_processes=1)
    assert files(config) == {} and not launch_files.is_launched(config)


def settings(**given: object) -> DistributedSettings:
    return DistributedSettings.model_validate(given)


def test_auto_is_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    two = replace(GPUS, num_devices=2)
    assert strategy.num_processes(settings(num_machines=3), two) == Setting(
        6, "2 visible GPUs (CUDA_VISIBLE_DEVICES=0,1) on each of 3 machines"
    )
    assert strategy.num_processes(settings(), CPU).value == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 12}, "is 12, 12 on this machine, which has 8 visible GPUs"),
        ({"num_processes": 3, "num_machines": 2}, "is 3, which 2 machines cannot share"),
        ({"machine_rank": 2, "num_machines": 2}, "is 2, expected less than"),
    ],
)
def test_impossible_numbers_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy.num_processes(settings(**given), GPUS)


@pytest.mark.parametrize(
    ("given", "processes", "message"),
    [("none", 2, "is `none`, and there are 2"), ("ddp", 1, "is `ddp`, and there is one process")],
)
def test_impossible_strategies_are_refused(given: str, processes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy.choose(settings(strategy=given), processes, None, 0)


@pytest.mark.parametrize(
    ("weights", "adapter", "processes", "expected"),
    [
        (10, 1, 1, Strategy.NONE),
        (10, 1, 8, Strategy.DDP),
        (60, 30, 8, Strategy.ZERO1),
        (140, 1, 8, Strategy.ZERO3),
    ],
)
def test_auto_goes_by_memory(
    weights: int, adapter: int, processes: int, expected: Strategy
) -> None:
    needed = Memory(weights * 10**9, adapter * 10**9, 0, 0, runtime=0, tokens_per_pass=1)
    found = strategy.choose(settings(), processes, needed, 80 * 10**9)
    assert found.value is expected and found.reason


@pytest.fixture
def config_file(make_config: MakeConfig, tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    return path


def test_dry_run_prints_files_and_command(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--num-processes", "2", "--strategy", "zero2", "--dry-run"]
    assert run(["train", str(config_file), *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["launch"]
    assert found["command"][:2] == ["accelerate", "launch"]
    assert sorted(Path(name).name for name in found["files"]) == [
        "accelerate.yaml",
        "deepspeed.json",
    ]
    assert not (tmp_path / "run").exists()
    assert run(["train", str(config_file), *arguments]) == 0
    text = capsys.readouterr().out
    assert "# command: accelerate launch" in text and '"stage": 2' in text


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_scripts_are_shell(scheduler: Scheduler, make_config: MakeConfig, tmp_path: Path) -> None:
    """Quotes in a path and in an override survive; the shell finds no fault."""
    config = with_processes(make_config(), num_machines=2)
    overrides = ["data.train=it's here.jsonl"]
    text = scripts.write(scheduler, config, "my runs/c.yaml", overrides, 8)
    if scheduler is Scheduler.SKYPILOT:
        task = yaml.safe_load(text)
        assert task["num_nodes"] == 2
        text = task["run"]
    for wanted in ("num_machines=2", "num_processes=16"):
        assert wanted in text
    path = tmp_path / "script.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", str(path)], check=True)
    words = tmp_path / "words"
    echo = f"lorawright() {{ printf '%s\\n' \"$@\" >> {words}; }}; torchrun() {{ :; }}\n"
    echo += 'scontrol() { echo one; }; srun() { "$@"; }; export -f lorawright\nset -- \n'
    environment = {"PATH": "/usr/bin:/bin", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "x"}
    environment |= {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    subprocess.run(["bash", "-c", echo + text], check=True, env=environment)
    assert words.read_text().splitlines()[1:4] == ["my runs/c.yaml", "--set", overrides[0]]


def test_slurm_script_has_what_clusters_ask_for(make_config: MakeConfig) -> None:
    """Options stand before the first command, else sbatch passes over them; examples are off."""
    config = with_processes(make_config(), num_machines=2)
    text = scripts.write(Scheduler.SLURM, config, "c.yaml", [], 8)
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any("SBATCH" in line for line in lines[first:])
    for option in ("time", "partition", "account", "mem", "cpus-per-task"):
        assert any(line.startswith(f"##SBATCH --{option}=") for line in lines)
    assert "#SBATCH --output=%x-%j.log" in lines and "# source .venv/bin/activate" in lines


def test_a_script_is_of_one_kind(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["launch-script", str(config_file)]) == 2
    assert "0 kinds of script are asked for" in capsys.readouterr().err
    assert run(["launch-script", str(config_file), "--torchrun", "--machines", "2"]) == 0
    assert "torchrun --nnodes 2" in capsys.readouterr().out
