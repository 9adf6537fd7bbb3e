"""Kills runs at random moments and resumes them: is the result the undisturbed run, bit by bit?

python tools/kill_test.py --kills 50

A run of the tiny model, with dropout, shuffling, evaluations and a checkpoint every second step, is
killed (`kill -9` on one process, drawn at random) after a random time: while it starts, in a step,
in an evaluation, in the write of a checkpoint, at an epoch's end. Then it is resumed. Prints a line
a kill and a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lorawright import hub
from lorawright.config import Config
from lorawright.distributed.ranks import free_port
from lorawright.distributed.signals import quiet
from lorawright.run import checkpoint
from lorawright.run.folder import RunFolder
from lorawright.training import train
from lorawright.training.train import Start

STRATEGIES = ["none", "ddp", "zero1", "zero3", "fsdp2"]
NUM_LINES = 12  # of the run's metrics: eight steps, four evaluations
CLOCKED = ("seconds", "tokens_per_second", "eval_seconds")


class Server:
    """Forks the processes of runs, see rank_server.py."""

    def __init__(self, log: Path) -> None:
        path = Path(__file__).with_name("rank_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def run(self, config: Config, start: Start, **strike: Any) -> list[int]:
        """Exit codes of all processes."""
        request: dict[str, Any] = {"port": free_port(), **strike}
        if config.distributed.strategy == "none":
            request |= {"jobs": [None], "config": config.model_dump(mode="json"), "start": start}
        else:
            job = str(train.prepare_only(config, start))
            request["jobs"] = [job] * int(config.distributed.num_processes)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        codes: list[int] = json.loads(self._process.stdout.readline())
        return codes


def config_of(strategy: str, output: Path, quantization: str) -> Config:
    data = hub.model_folder("tiny").parent / "demo"
    return Config.model_validate(
        {
            "model": {"name": "tiny", "dtype": "float32", "quantization": quantization},
            "data": {"train": str(data / "train.jsonl"), "eval": 0.02, "leaked": "drop"},
            "training": {
                "output": str(output),
                "epochs": 2,
                "max_steps": 8,
                "batch_size": 4,
                "learning_rate": 2e-3,
                "trackers": [],
                "save_steps": 2,
                "eval_steps": 3,
                "gradient_checkpointing": False,
            },
            "distributed": {
                "strategy": strategy,
                "num_processes": 1 if strategy == "none" else 2,
            },
        }
    )


def outcome(folder: RunFolder) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Metrics without what a clock decides, and the adapter's bytes."""
    lines = [{k: v for k, v in line.items() if k not in CLOCKED} for line in folder.read_metrics()]
    tensors = load_file(folder.adapter / "adapter_model.safetensors")
    return lines, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def found_at(folder: RunFolder) -> str:
    """What the kill has left: where the run was."""
    if not folder.metrics.exists():
        return "before the first step"
    names = list(folder.checkpoints.glob("checkpoint-*"))
    if any(checkpoint.read(path) is None for path in names):
        return "in the write of a checkpoint"
    if folder.adapter.exists():
        return "after the end"
    last = list(folder.read_metrics())[-1]
    return "in or after an evaluation" if "eval_loss" in last else "in or after a step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="over all strategies together")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--quantization", default="none", help="nf4: QLoRA")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet()
    draw = random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-test-"))
    server = Server(root / "log")
    table: Counter[tuple[str, str, str]] = Counter()
    for strategy in arguments.strategies:
        calm = config_of(strategy, root / f"{strategy}-calm", arguments.quantization)
        started = time.monotonic()
        assert set(server.run(calm, Start.NEW)) == {0}, (root / "log").read_text()[-3000:]
        seconds = time.monotonic() - started
        wanted = outcome(RunFolder(Path(calm.training.output)))
        share = arguments.kills // len(arguments.strategies)
        for number in range(share):
            config = config_of(strategy, root / f"{strategy}-{number}", arguments.quantization)
            folder = RunFolder(Path(config.training.output))
            victim = draw.randrange(int(config.distributed.num_processes))
            lines, after = draw.randrange(NUM_LINES), draw.uniform(0, seconds / NUM_LINES)
            strike = {"victim": victim, "signal": 9, "lines": lines, "after_seconds": after}
            server.run(config, Start.NEW, metrics=str(folder.metrics), **strike)
            where = found_at(folder)
            begun = folder.holds_a_run()
            codes = server.run(config, Start.RESUME if begun else Start.NEW)
            equal = set(codes) == {0} and outcome(folder) == wanted
            result = "bit-equal" if equal else "DIFFERS"
            table[strategy, where, result] += 1
            moment = f"process {victim} {after:.1f} s after line {lines}"
            print(f"{strategy} {number}: {moment}, {where}: {result}", flush=True)
    print("\n| strategy | killed | result | kills |\n|---|---|---|---|")
    for (strategy, where, result), count in sorted(table.items()):
        print(f"| {strategy} | {where} | {result} | {count} |")
    print(f"| all | | bit-equal | {sum(n for key, n in table.items() if key[2] == 'bit-equal')} |")


if __name__ == "__main__":
    main()
