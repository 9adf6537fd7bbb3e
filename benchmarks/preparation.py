"""Data preparation and start-up: lorawright against TRL on the same rows, in turn, several rounds.

    python benchmarks/preparation.py --model DIR_OR_ID --chats FILE --num-rows 20000 --rounds 3
    python benchmarks/preparation.py --model DIR_OR_ID --chats FILE --startup

Preparation is what turns chats into ids and masks: for lorawright `prepare.run` with an empty
cache, proofs and certificate included; for TRL what its trainer does with a data set, with a chat
template that has generation tags (`assistant_only_loss`), in one process and in one a core
(`dataset_num_proc`). Loading libraries and tokenizer is apart. Each measurement has a process of
its own. Rows beyond the file's are the same chats with a number behind the question, so that no
two are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CANDIDATES = ("trl", "trl-processes", "lorawright")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--chats", required=True, help="any file lorawright reads")
    parser.add_argument("--num-rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=CANDIDATES)
    parser.add_argument("--startup", action="store_true", help="time the commands instead")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(RUNNERS[arguments.run](arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(arguments, Path(folder) / "rows.jsonl")
        if arguments.startup:
            compare_startup(arguments, rows)
        else:
            compare(arguments, rows)


def write_rows(arguments: argparse.Namespace, path: Path) -> Path:
    """The chats as messages, one a line, repeated with numbers up to `--num-rows`."""
    from lorawright.config.schema import DataSettings
    from lorawright.data import Reader
    from lorawright.types import Conversation

    settings = DataSettings(train=arguments.chats, invalid="drop", duplicates="keep")
    chats = [item for item in Reader(settings) if isinstance(item, Conversation)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(arguments.num_rows):
            turn, index = divmod(number, len(chats))
            messages = [message.for_template() for message in chats[index].messages]
            if turn:
                messages[0]["content"] += f" ({turn})"
            row: dict[str, object] = {"messages": messages}
            if chats[index].tools:
                row["tools"] = json.dumps(chats[index].tools, ensure_ascii=False)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def compare(arguments: argparse.Namespace, rows: Path) -> None:
    """Runs the candidates in turn and prints rows a second, ratios paired by round."""
    speeds: dict[str, list[float]] = {name: [] for name in arguments.only}
    memory: dict[str, int] = {}
    for number in range(arguments.rounds):
        for name in arguments.only:
            found = _in_process(name, arguments, rows)
            speeds[name].append(found["num_rows"] / found["seconds"])
            memory[name] = max(memory.get(name, 0), found["peak_bytes"])
            print(f"round {number + 1}: {name} {speeds[name][-1]:,.0f} rows/s", file=sys.stderr)
    first = arguments.only[0]
    print(f"| candidate | rows/s (min, median, max) | times {first} | peak MB, largest process |")
    print("|---|---|---|---|")
    for name, values in speeds.items():
        ratios = [b / a for a, b in zip(speeds[first], values, strict=True)]
        shown = f"{min(ratios):.2f}, {statistics.median(ratios):.2f}, {max(ratios):.2f}"
        speed = f"{min(values):,.0f}, {statistics.median(values):,.0f}, {max(values):,.0f}"
        print(f"| {name} | {speed} | {shown} | {memory[name] / 1e6:,.0f} |")


def _in_process(name: str, arguments: argparse.Namespace, rows: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--model", arguments.model, "--chats", str(rows)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LORAWRIGHT_CACHE": folder, "HF_DATASETS_CACHE": folder}
        result = subprocess.run(
            [*command, "--run", name], capture_output=True, text=True, env=environment
        )
    if result.returncode:
        sys.exit(f"{name} failed:\n{result.stderr[-2000:]}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def _measured(num_rows: int, seconds: float) -> dict[str, float]:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(one).ru_maxrss for one in who)
    return {"num_rows": num_rows, "seconds": seconds, "peak_bytes": peak * 1024}


def run_lorawright(arguments: argparse.Namespace) -> dict[str, float]:
    from lorawright.config import Config
    from lorawright.dataset import prepare

    data = {"train": arguments.chats, "duplicates": "keep", "overlong": "drop"}
    config = Config.model_validate({"model": {"name": arguments.model}, "data": data})
    started = time.perf_counter()
    prepared = prepare.run(config)
    return _measured(len(prepared.train), time.perf_counter() - started)


def run_trl(arguments: argparse.Namespace, num_processes: int | None) -> dict[str, float]:
    """Times the trainer's own preparation; the model is one layer of 8, as it is not used."""
    import torch
    from datasets import load_dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    shape = AutoConfig.from_pretrained(arguments.model)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "layer_types": None}
    shape = type(shape).from_dict({**shape.to_dict(), **small, **heads, "head_dim": 8})
    seconds: list[float] = []

    class Timed(SFTTrainer):  # type: ignore[misc] # trl is untyped
        def _prepare_dataset(self, *args: object, **kwargs: object) -> object:
            started = time.perf_counter()
            dataset = super()._prepare_dataset(*args, **kwargs)
            seconds.append(time.perf_counter() - started)
            return dataset

    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=AutoModelForCausalLM.from_config(shape),
            args=SFTConfig(
                output_dir=folder,
                assistant_only_loss=True,
                max_length=4096,
                dataset_num_proc=num_processes,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
            ),
            train_dataset=load_dataset("json", data_files=arguments.chats, split="train"),
            processing_class=tokenizer,
        )
        return _measured(len(trainer.train_dataset), sum(seconds))


def compare_startup(arguments: argparse.Namespace, rows: Path) -> None:
    """Seconds of `--help`, of `check` on chats seen before, and until a run's first step starts."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "c.yaml"
        config.write_text(
            f"model: {{name: {arguments.model}}}\n"
            f"data: {{train: {rows}, duplicates: keep, overlong: drop}}\n"
            f"training: {{output: {folder}/run, trackers: [], epochs: 1}}\n"
        )
        environment = {**os.environ, "LORAWRIGHT_CACHE": folder}
        lorawright = [sys.executable, "-m", "lorawright"]
        commands = {
            "--help": [*lorawright, "--help"],
            "check, first time": [*lorawright, "check", str(config)],
            "check, again": [*lorawright, "check", str(config)],
            "train, until the first step": [sys.executable, __file__, "--model", arguments.model],
        }
        commands["train, until the first step"] += ["--chats", str(config), "--run", "first-step"]
        print("| command | seconds (min, median, max) |\n|---|---|")
        for name, command in commands.items():
            seconds = []
            for _ in range(1 if name == "check, first time" else arguments.rounds):
                started = time.perf_counter()
                result = subprocess.run(command, capture_output=True, text=True, env=environment)
                if result.returncode:
                    sys.exit(f"{name} failed:\n{result.stderr[-2000:]}")
                seconds.append(time.perf_counter() - started)
            shown = f"{min(seconds):.2f}, {statistics.median(seconds):.2f}, {max(seconds):.2f}"
            print(f"| {name} | {shown} |", flush=True)


def run_first_step(arguments: argparse.Namespace) -> dict[str, float]:
    """Starts a run and ends the process where its first step would begin."""
    from lorawright.config import load
    from lorawright.run.events import Event, TrainingStarted
    from lorawright.training import train

    def end(event: Event) -> None:
        if isinstance(event, TrainingStarted):
            print("{}", flush=True)
            os._exit(0)

    train.run(load(arguments.chats, []).config, start=train.Start.OVERWRITE, tell=end)
    return {}


RUNNERS = {
    "lorawright": run_lorawright,
    "trl": lambda arguments: run_trl(arguments, None),
    "trl-processes": lambda arguments: run_trl(arguments, os.cpu_count()),
    "first-step": run_first_step,
}

if __name__ == "__main__":
    main()
