"""What `training.trl` may hold: fields of TRL's SFTConfig that do here what they say.

Every field of SFTConfig stands in one of three tables: ALLOWED, OURS (a key of our own decides it)
or REFUSED, with the reason. A field that a newer TRL adds is refused until it is listed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from lorawright.config import schedules
from lorawright.config.schema import TrainingSettings

Text = Annotated[str, Field(min_length=1, max_length=255, strict=True)]
Beta = Annotated[float, Field(ge=0, lt=1, strict=True, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, le=1, strict=True, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=0, le=100_000_000, strict=True)]

ALLOWED: dict[str, Any] = {
    "adam_beta1": Beta,
    "adam_beta2": Beta,
    "adam_epsilon": Epsilon,
    "optim_args": Text,
    "lr_scheduler_kwargs": dict[str, Any],
    "logging_first_step": Annotated[bool, Field(strict=True)],
    "eval_delay": Steps,
    "run_name": Text,
    "project": Text,
    "torch_empty_cache_steps": Annotated[int, Field(gt=0, le=100_000_000, strict=True)],
}
EXPECTED = {
    "adam_beta1": "a number from 0 to below 1",
    "adam_beta2": "a number from 0 to below 1",
    "adam_epsilon": "a number above 0, at most 1",
    "optim_args": "text such as `momentum=0.9`",
    "lr_scheduler_kwargs": "a mapping",
    "logging_first_step": "true or false",
    "eval_delay": "a whole number of steps from 0 to 100,000,000",
    "run_name": "text of at most 255 characters",
    "project": "text of at most 255 characters",
    "torch_empty_cache_steps": "a whole number of steps from 1 to 100,000,000",
}

OURS = {
    "output_dir": "training.output",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.tokens_per_pass",
    "gradient_accumulation_steps": "training.batch_size",
    "auto_find_batch_size": "training.tokens_per_pass",
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
    "do_eval": "data.eval",
    "save_steps": "training.save_steps",
    "save_strategy": "training.save_steps",
    "save_total_limit": "training.keep_checkpoints",
    "report_to": "training.trackers",
    "seed": "training.seed",
    "data_seed": "data.seed",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "model.dtype",
    "trust_remote_code": "model.trust_remote_code",
    "max_length": "data.max_length",
    "truncation_mode": "data.overlong",
    "packing": "training.tokens_per_pass",
    "padding_free": "training.tokens_per_pass",
    "assistant_only_loss": "data.train_on",
    "completion_only_loss": "data.train_on",
    "chat_template_path": "model.name",
    "eos_token": "model.name",
    "pad_token": "model.name",
    "dataset_kwargs": "data.train",
    "model_init_kwargs": "model.dtype",
    "deepspeed": "distributed.strategy",
    "fsdp": "distributed.strategy",
    "fsdp_config": "distributed.strategy",
    "ddp_timeout": "distributed.timeout_seconds",
    "resume_from_checkpoint": "train --resume",
}

_LOSS = "the loss is the mean over a step's trained tokens, nothing else, so that it can be checked"
_DATA = "chats are read, encoded and put in order before training, by the keys of `data`"
_LOADER = "steps are planned ahead and loaded in order; a loader's own settings would do nothing"
_HUB = "nothing is sent while training; `lorawright push RUN REPO` uploads a finished adapter"
_SPACE = "a page of curves on the hub is the tracker's matter: set its environment variables"
_EVAL = "evaluation is computed here, as a mean over tokens"
_RANKS = "processes are started by the keys of `distributed`"
_KERNEL = "passes, norms and the loss have kernels of their own here"
_QUIET = "what libraries say is kept out of the way; `lorawright doctor` shows versions"
_EXACT = "a resumed run would no longer be the run that went through"
_BEST = (
    "not there yet: report and model card would still tell the last step's figures; checkpoints "
    "that `training.keep_checkpoints` keeps are adapters too"
)
_NOT_TRIED = "not there yet: it was not tried with what is promised here"

REFUSED = {
    "optim_target_modules": "it is for optimizers of whole models; an adapter is small already",
    "average_tokens_across_devices": _LOSS,
    "label_smoothing_factor": _LOSS,
    "loss_type": _LOSS,
    "router_aux_loss_coef": _LOSS,
    "neftune_noise_alpha": "its noise depends on how chats are packed into passes; `lora.dropout` "
    "draws by chat",
    "bf16_full_eval": _EVAL,
    "fp16_full_eval": _EVAL,
    "tf32": "it rounds float32 products by the GPU's make; `model.dtype: bfloat16` is the fast one",
    "activation_checkpointing_kwargs": "there is one way of recomputing that was proven",
    "gradient_checkpointing_kwargs": "there is one way of recomputing that was proven",
    "activation_offloading": _NOT_TRIED,
    "torch_compile": _KERNEL,
    "torch_compile_backend": _KERNEL,
    "torch_compile_mode": _KERNEL,
    "use_liger_kernel": _KERNEL,
    "liger_kernel_config": _KERNEL,
    "use_cache": "training computes no cache of keys and values",
    "log_on_each_node": _QUIET,
    "logging_nan_inf_filter": "a step whose loss is not finite ends the run, and is never hidden",
    "include_num_input_tokens_seen": "tokens are counted in metrics.jsonl already",
    "log_level": _QUIET,
    "log_level_replica": _QUIET,
    "disable_tqdm": _QUIET,
    "trackio_space_id": _SPACE,
    "trackio_bucket_id": _SPACE,
    "trackio_static_space_id": _SPACE,
    "prediction_loss_only": _EVAL,
    "eval_on_start": "when there is an evaluation is decided by `data.eval` and "
    "`training.eval_steps`",
    "eval_do_concat_batches": _EVAL,
    "eval_use_gather_object": _EVAL,
    "eval_accumulation_steps": _EVAL,
    "include_for_metrics": _EVAL,
    "batch_eval_metrics": _EVAL,
    "eval_packing": _EVAL,
    "save_only_model": _EXACT,
    "ignore_data_skip": _EXACT,
    "restore_callback_states_from_checkpoint": _EXACT,
    "save_on_each_node": "all processes write one checkpoint, on storage that all of them see",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C save a checkpoint already",
    "push_to_hub": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "full_determinism": _NOT_TRIED,
    "accelerator_config": _RANKS,
    "parallelism_config": _RANKS,
    "dataloader_drop_last": _LOADER,
    "dataloader_num_workers": _LOADER,
    "dataloader_pin_memory": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_in_order": _LOADER,
    "remove_unused_columns": _DATA,
    "label_names": _DATA,
    "train_sampling_strategy": _DATA,
    "length_column_name": _DATA,
    "dataset_text_field": _DATA,
    "dataset_num_proc": _DATA,
    "shuffle_dataset": _DATA,
    "packing_strategy": _DATA,
    "pad_to_multiple_of": _DATA,
    "ddp_find_unused_parameters": _RANKS,
    "ddp_bucket_cap_mb": _RANKS,
    "ddp_broadcast_buffers": _RANKS,
    "ddp_static_graph": _RANKS,
    "ddp_backend": _RANKS,
    "local_rank": _RANKS,
    "debug": _QUIET,
    "skip_memory_metrics": _QUIET,
    "do_train": "`lorawright train` trains",
    "do_predict": "`lorawright evaluate RUN` writes answers of the finished adapter",
}

Finding = tuple[str, str, str]
"""(name, what is wrong, hint)."""

ADAM = ("adam", "ademamix", "lion")  # marks of the optimizers that read `adam_beta1` and 2
OPTIMIZER_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
}
SWITCHES = ("nesterov", "centered")


def problems(training: TrainingSettings) -> Iterator[Finding]:
    """What `training.trl` may not hold, beside this optimizer and this schedule."""
    given = training.trl
    faulty = set()
    for finding in _refused(given):
        faulty.add(finding[0])
        yield finding
    taken = {name: value for name, value in given.items() if name not in faulty}
    yield from _optimizer_problems(training.optimizer, taken)
    yield from _tracker_problems(training.trackers, taken)
    for name, what, hint in schedules.problems(
        training.schedule, taken.get("lr_scheduler_kwargs", {}), training.learning_rate
    ):
        place = f"lr_scheduler_kwargs.{name}" if name else "lr_scheduler_kwargs"
        yield place, what, hint


def _refused(given: dict[str, Any]) -> Iterator[Finding]:
    for name, value in given.items():
        if name in OURS:
            yield name, "is decided by our own key", f"write `{OURS[name]}`"
        elif name in REFUSED:
            yield name, "is not taken", REFUSED[name]
        elif name not in ALLOWED:
            near = difflib.get_close_matches(name, [*ALLOWED, *OURS, *REFUSED], n=1)
            hint = (
                f"did you mean `{near[0]}`?" if near else f"expected one of: {', '.join(ALLOWED)}"
            )
            yield name, "is no field of TRL's SFTConfig that is known here", hint
        else:
            try:
                TypeAdapter(ALLOWED[name]).validate_python(value)
            except ValidationError:
                yield name, f"is `{str(value)[:60]}`, expected {EXPECTED[name]}", "see TRL's docs"


def _tracker_problems(trackers: Sequence[str], given: dict[str, Any]) -> Iterator[Finding]:
    """Names that no tracker of this run would show."""
    if "run_name" in given and not set(trackers) - {"tensorboard"}:
        hint = "name one in `training.trackers`: wandb, trackio, swanlab or mlflow"
        yield "run_name", "is for trackers that name runs, and there is none", hint
    if "project" in given and "trackio" not in trackers:
        hint = "wandb takes the environment variable WANDB_PROJECT"
        yield "project", "is read by trackio alone, which is not in `training.trackers`", hint


def _optimizer_problems(optimizer: str, given: dict[str, Any]) -> Iterator[Finding]:
    """Settings that this optimizer would pass over in silence."""
    adam = optimizer == "auto" or any(mark in optimizer for mark in ADAM)
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if name in given and (not adam or (name == "adam_epsilon" and "lion" in optimizer)):
            what = f"does nothing with the optimizer `{optimizer}`"
            yield name, what, "choose one of the Adam family as `training.optimizer`"
    if "optim_args" not in given:
        return
    known = OPTIMIZER_ARGUMENTS.get(optimizer)
    if known is None:
        what = f"does nothing with the optimizer `{optimizer}`"
        hint = f"it is for: {', '.join(OPTIMIZER_ARGUMENTS)}; AdamW has `adam_beta1` and so on"
        yield "optim_args", what, hint
        return
    for part in given["optim_args"].replace(" ", "").split(","):
        name, _, value = part.partition("=")
        if name not in known:
            yield "optim_args", f"has `{part[:60]}`", f"expected one of: {', '.join(known)}"
        elif not _fits(name, value):
            expected = "true or false" if name in SWITCHES else "a number from 0 to 1"
            yield "optim_args", f"has `{part[:60]}`, expected {expected}", f"write `{name}=…`"


def _fits(name: str, value: str) -> bool:
    if name in SWITCHES:
        return value in ("true", "false")
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False
