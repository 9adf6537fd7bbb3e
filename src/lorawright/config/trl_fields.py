"""What `training.trl` may hold: SFTConfig's fields, less those that our own keys decide.

The names are read from the installed libraries' source, without importing them: `check` needs no
torch, and a list of our own would grow old.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OURS = {
    "output_dir": "training.output",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.tokens_per_pass",
    "gradient_accumulation_steps": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.schedule",
    "warmup_steps": "training.warmup_ratio",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "optim": "training.optimizer",
    "activation_checkpointing": "training.gradient_checkpointing",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "logging_steps": "training.logging_steps",
    "logging_strategy": "training.logging_steps",
    "eval_steps": "training.eval_steps",
    "eval_strategy": "data.eval",
    "save_steps": "training.save_steps",
    "save_strategy": "training.save_steps",
    "save_total_limit": "training.keep_checkpoints",
    "report_to": "training.trackers",
    "seed": "training.seed",
    "data_seed": "data.seed",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "model.dtype",
    "max_length": "data.max_length",
    "packing": "training.tokens_per_pass",
    "padding_free": "training.tokens_per_pass",
    "assistant_only_loss": "data.train_on",
    "completion_only_loss": "data.train_on",
    "chat_template_path": "model.name",
    "eos_token": "model.name",
    "pad_token": "model.name",
    "dataset_kwargs": "data.train",
    "model_init_kwargs": "model.dtype",
    "loss_type": "data.train_on",
    "deepspeed": "distributed.strategy",
    "fsdp": "distributed.strategy",
    "fsdp_config": "distributed.strategy",
    "resume_from_checkpoint": "train --resume",
}
SOURCES = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
)


@cache
def names() -> frozenset[str]:
    """Fields of the installed TRL's SFTConfig, inherited ones included."""
    return frozenset(name for source in SOURCES for name in _fields(*source))


def _fields(package: str, file: str, class_name: str) -> Iterator[str]:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, package
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.target.id


def refused(given: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(name, what is wrong, hint) of each key that `training.trl` may not hold."""
    for name in given:
        if name in OURS:
            yield name, "is decided by our own key", f"write `{OURS[name]}`"
        elif name not in names():
            near = difflib.get_close_matches(name, names(), n=1)
            hint = f"did you mean `{near[0]}`?" if near else "see TRL's documentation of SFTConfig"
            yield name, "is no field of TRL's SFTConfig", hint
