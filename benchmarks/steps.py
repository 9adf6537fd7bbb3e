"""Training steps against TRL: same chats, same model, same LoRA, in turn, several rounds.

    python benchmarks/steps.py --model DIR_OR_ID --short FILE --long FILE --one-tools FILE \\
        --rounds 3 --out benchmarks/results

The measured step holds the same `--batch-size` chats for everyone; a step before it warms up and is
left out. Each candidate runs in a process of its own: seconds as its trainer sees them, peak
resident memory of the process. Printed and written: median with minimum and maximum, and ratios
paired by round.

    trl-tutorial   the tutorial's settings: float32 base under autocast, gradient checkpointing
    trl-best       bfloat16 base, no checkpointing, the loss at assistant tokens; not packed, since
                   TRL's packs need FlashAttention to keep chats apart
    ms-swift       with `--swift PYTHON`, an interpreter of a venv that has it
    products       no trainer: the matrix products of lorawright's step alone, as a lower bound
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import sets

from lorawright.config import Config

CANDIDATES = ("trl-tutorial", "trl-best", "lorawright", "products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    for name in sets.NAMES:
        parser.add_argument(f"--{name}", help=f"file of chats for the set {name!r}")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=CANDIDATES)
    parser.add_argument("--swift", help="interpreter of a venv with ms-swift")
    names = "--model_type qwen2 --template qwen2_5"
    parser.add_argument("--swift-arguments", default=names, help="its names for a local model")
    parser.add_argument("--out", type=Path, help="folder for a dated Markdown file")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(RUNNERS[arguments.run](arguments) | {"peak_bytes": peak_bytes()}))
        return
    compare(arguments)


def peak_bytes() -> int:
    import resource

    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(use.ru_maxrss for use in uses) * 1024


def compare(arguments: argparse.Namespace) -> None:
    """Runs the candidates on each set, prints the tables and writes the file."""
    parts = [f"# Steps, {datetime.date.today()}", "", hardware(), "", f"`{' '.join(sys.argv)}`"]
    for name in sets.NAMES:
        file = getattr(arguments, name.replace("-", "_"))
        if file:
            table = measure(name, file, arguments)
            print(f"\n## {name}\n\n{table}", flush=True)
            parts += ["", f"## {name}", "", table]
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
        (arguments.out / f"steps-{stamp}.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def hardware() -> str:
    import torch
    import transformers
    import trl

    features = ", ".join(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs ({features}), torch {torch.__version__}, "
        f"transformers {transformers.__version__}, trl {trl.__version__}"
    )


def measure(name: str, file: str, arguments: argparse.Namespace) -> str:
    """One set, all candidates in turn; a Markdown table."""
    candidates = [*arguments.only, *(["ms-swift"] if arguments.swift else [])]
    seconds: dict[str, list[float]] = {one: [] for one in candidates}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "rows.json"
        chosen.write_text(json.dumps(sets.rows(name, file, arguments.batch_size)))
        for number in range(arguments.rounds):
            for one in candidates:
                result = run(one, chosen, arguments)
                seconds[one].append(result["step_seconds"])
                peaks[one] = max(peaks.get(one, 0), result["peak_bytes"])
                print(f"{name}, round {number + 1}: {one} {result}", file=sys.stderr, flush=True)
    rows = [
        f"| {one} | {spread(values)} | "
        + " | ".join(spread(ratios(seconds[other], values)) for other in candidates[:2])
        + f" | {peaks[one] / 1e9:.1f} |"
        for one, values in seconds.items()
    ]
    others = " | ".join(f"times {other}" for other in candidates[:2])
    head = f"| candidate | seconds a step (min, median, max) | {others} | peak GB |"
    return "\n".join([head, "|---|---|" + "---|" * len(candidates[:2]) + "---|", *rows])


def run(one: str, chosen: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--run", one, "--rows", str(chosen)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{one} failed:\n{result.stderr[-2000:]}")
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def ratios(others: list[float], values: list[float]) -> list[float]:
    return [a / b for a, b in zip(others, values, strict=True)]


def spread(values: list[float]) -> str:
    return f"{min(values):.2f}, {statistics.median(values):.2f}, {max(values):.2f}"


def run_lorawright(arguments: argparse.Namespace) -> dict[str, object]:
    """Two epochs over the chats: the second step is measured."""
    from lorawright.training import train

    with tempfile.TemporaryDirectory() as folder:
        config = lorawright_config(arguments, Path(folder))
        result = train.run(config)
        lines = [line for line in result.folder.read_metrics() if "loss" in line]
    return {
        "step_seconds": lines[1]["seconds"],
        "tokens": lines[1]["tokens"],
        "trained_tokens": lines[1]["trained_tokens"],
        "loss": lines[0]["loss"],
    }


def lorawright_config(arguments: argparse.Namespace, folder: Path) -> Config:
    """Two epochs of one step, over the rows in the folder."""
    data = folder / "train.jsonl"
    rows = json.loads(arguments.rows.read_text())
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config.model_validate(
        {
            "model": {"name": arguments.model},
            "data": {"train": str(data)},
            "lora": {"dropout": arguments.dropout},
            "training": {
                "output": str(folder / "run"),
                "epochs": 2,
                "batch_size": arguments.batch_size,
                "trackers": [],
            },
        }
    )


def run_products(arguments: argparse.Namespace) -> dict[str, object]:
    """Each frozen weight once forward and once for its input's gradient, for the planned passes."""
    import time

    import torch

    from lorawright.model import loss
    from lorawright.plan import estimate

    passes = planned_passes(arguments)
    shape = estimate.read_shape(Path(arguments.model))
    assert shape is not None
    config = json.loads((Path(arguments.model) / "config.json").read_text())
    keys = shape.hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    hidden, ffn = shape.hidden, shape.ffn
    layer = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(ffn, hidden)] * 2 + [(hidden, ffn)]

    def product(num_rows: int, weight_OI: torch.Tensor) -> float:
        x_TI = torch.randn(num_rows, weight_OI.shape[1], dtype=torch.bfloat16)
        y_TO = x_TI @ weight_OI.T  # the first call makes room
        started = time.perf_counter()
        torch.mm(x_TI, weight_OI.T, out=y_TO)
        torch.mm(y_TO, weight_OI, out=x_TI)
        return time.perf_counter() - started

    weights = [torch.randn(size, dtype=torch.bfloat16) for size in layer]
    vocabulary = torch.randn(shape.vocabulary, hidden, dtype=torch.bfloat16)
    seconds = 0.0
    for num_tokens, num_trained in passes:
        for _ in range(shape.num_layers):
            seconds += sum(product(num_tokens, weight) for weight in weights)
        for start in range(0, num_trained, loss.CHUNK):
            seconds += product(min(loss.CHUNK, num_trained - start), vocabulary)
    return {"step_seconds": seconds, "tokens": sum(tokens for tokens, _ in passes)}


def planned_passes(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """(tokens, trained positions) of each pass of lorawright's step."""
    from lorawright.plan import run_plan
    from lorawright.plan.attention import Attention
    from lorawright.run.events import silent
    from lorawright.training.batches import step_tensors

    with tempfile.TemporaryDirectory() as folder:
        settled = run_plan.make(lorawright_config(arguments, Path(folder)), silent)
        tensors = step_tensors(settled.steps[0], 0, settled.chats.train, Attention.SEGMENTS)
        return [(one["input_ids"].shape[1], len(one["targets_P"])) for one in tensors]


def run_trl(arguments: argparse.Namespace, *, best: bool) -> dict[str, object]:
    """TRL's trainer: a step of one short chat repeated, then the measured one."""
    import time

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc] # transformers is untyped
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            times[-1] += time.perf_counter()

    rows = json.loads(arguments.rows.read_text())
    warm_up = min(rows, key=lambda row: len(json.dumps(row)))
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
            max_length=8192,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            model_init_kwargs={"dtype": "bfloat16"} if best else None,
        )
        trainer = SFTTrainer(
            model=arguments.model,
            args=config,
            train_dataset=Dataset.from_list([warm_up] * arguments.batch_size + rows),
            processing_class=AutoTokenizer.from_pretrained(arguments.model),
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
    assert len(times) == 2
    return {"step_seconds": times[1]}


def run_swift(arguments: argparse.Namespace) -> dict[str, object]:
    """ms-swift at its best on a CPU: no checkpointing; steps from its own log."""
    import torch

    rows = json.loads(arguments.rows.read_text())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
        swift = str(Path(arguments.swift).with_name("swift"))
        command = [swift, "sft", "--model", arguments.model, "--dataset", str(data)]
        command += shlex.split(arguments.swift_arguments)
        command += ["--tuner_type", "lora", "--lora_rank", "8", "--lora_alpha", "16"]
        command += ["--lora_dropout", str(arguments.dropout), "--torch_dtype", "bfloat16"]
        command += ["--gradient_checkpointing", "false", "--num_train_epochs", "1"]
        command += ["--per_device_train_batch_size", "1", "--dataset_shuffle", "false"]
        command += ["--train_dataloader_shuffle", "false", "--use_hf", "true"]
        command += ["--gradient_accumulation_steps", str(arguments.batch_size)]
        command += ["--logging_steps", "1", "--save_strategy", "no", "--max_length", "8192"]
        command += ["--split_dataset_ratio", "0", "--output_dir", folder, "--report_to", "none"]
        command += ["--use_cpu", str(not torch.cuda.is_available()).lower()]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (log,) = Path(folder).rglob("logging.jsonl")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    means = [line["train_speed(s/it)"] for line in lines if "loss" in line]  # over all steps so far
    return {"step_seconds": 2 * means[1] - means[0]}


RUNNERS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "lorawright": run_lorawright,
    "trl-tutorial": lambda arguments: run_trl(arguments, best=False),
    "trl-best": lambda arguments: run_trl(arguments, best=True),
    "ms-swift": run_swift,
    "products": run_products,
}

if __name__ == "__main__":
    main()
