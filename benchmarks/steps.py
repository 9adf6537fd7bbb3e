"""Training steps against TRL on the same chats, same model, same LoRA, in turn, several rounds.

    python benchmarks/steps.py --model DIR_OR_ID --chats FILE --num-chats 16 --rounds 3

Each candidate runs in a process of its own and reports the seconds of each optimizer step as its
trainer sees them; the first step is left out (allocators, thread pools). Printed: median seconds a
step with minimum and maximum, and ratios to TRL with the tutorial's settings, paired by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CANDIDATES = ("trl-tutorial", "trl-best", "lorawright")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--chats", required=True, help="any file lorawright reads")
    parser.add_argument("--num-chats", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=CANDIDATES)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(RUNNERS[arguments.run](arguments)))
        return
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Runs the candidates in turn and prints the table."""
    seconds: dict[str, list[float]] = {name: [] for name in arguments.only}
    for number in range(arguments.rounds):
        for name in arguments.only:
            command = [sys.executable, *sys.argv, "--run", name]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                sys.exit(f"{name} failed:\n{result.stderr[-2000:]}")
            steps = json.loads(result.stdout.splitlines()[-1])["step_seconds"]
            seconds[name].append(statistics.mean(steps[1:]))
            print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s a step", file=sys.stderr)
    first = arguments.only[0]
    print(f"| candidate | seconds a step (min, median, max) | times {first} (min, median, max) |")
    print("|---|---|---|")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(seconds[first], values, strict=True)]
        print(f"| {name} | {_spread(values)} | {_spread(ratios)} |")


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f}, {statistics.median(values):.2f}, {max(values):.2f}"


def _rows(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The first chats of the file, as messages: what every candidate is given."""
    from lorawright.config.schema import DataSettings
    from lorawright.data import Reader
    from lorawright.types import Conversation

    rows: list[dict[str, object]] = []
    for item in Reader(DataSettings(train=arguments.chats, invalid="drop", duplicates="keep")):
        if isinstance(item, Conversation) and len(rows) < arguments.num_chats:
            messages = [message.for_template() for message in item.messages]
            rows.append({"messages": messages, "tools": item.tools})
    return rows


def run_lorawright(arguments: argparse.Namespace) -> dict[str, object]:
    from lorawright import train
    from lorawright.config import Config

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in _rows(arguments)))
        config = Config.model_validate(
            {
                "model": {"name": arguments.model},
                "data": {"train": str(data), "overlong": "drop"},
                "lora": {"dropout": arguments.dropout},
                "training": {
                    "output": str(Path(folder) / "run"),
                    "epochs": 1,
                    "batch_size": arguments.batch_size,
                    "trackers": [],
                },
            }
        )
        result = train.run(config)
        lines = [line for line in result.folder.read_metrics() if "loss" in line]
    return {"step_seconds": [line["seconds"] for line in lines]}


def run_trl(arguments: argparse.Namespace, *, best: bool) -> dict[str, object]:
    """TRL's trainer: the tutorial's settings, or base in bfloat16 without checkpointing, packed."""
    import time

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc] # transformers is untyped
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            times[-1] += time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            assistant_only_loss=True,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=arguments.batch_size,
            num_train_epochs=1,
            learning_rate=2e-5,
            activation_checkpointing=not best,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            max_length=4096,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            model_init_kwargs={"dtype": "bfloat16"} if best else None,
        )
        trainer = SFTTrainer(
            model=arguments.model,
            args=config,
            train_dataset=Dataset.from_list(_rows(arguments)),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=8,
                lora_alpha=16,
                lora_dropout=arguments.dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[Clock()],
        )
        trainer.train()
    return {"step_seconds": times}


RUNNERS = {
    "lorawright": run_lorawright,
    "trl-tutorial": lambda arguments: run_trl(arguments, best=False),
    "trl-best": lambda arguments: run_trl(arguments, best=True),
}

if __name__ == "__main__":
    main()
