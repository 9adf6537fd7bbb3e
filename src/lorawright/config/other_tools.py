"""Names that other tools use for what we have, and what to write here instead.

Keys are names of TRL's SFTConfig, PEFT's LoraConfig, accelerate's YAML, DeepSpeed's JSON and of
LLaMA-Factory, axolotl and ms-swift configs; values are our dotted keys or a sentence.
"""

from __future__ import annotations

RENAMED: dict[str, str] = {
    # PEFT
    "r": "lora.rank",
    "lora_r": "lora.rank",
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "target_modules": "lora.target_modules",
    "lora_target_parameters": "lora.target_parameters",
    "target_parameters": "lora.target_parameters",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    # model
    "base_model": "model.name",
    "model_name": "model.name",
    "model_id": "model.name",
    "model_name_or_path": "model.name",
    "torch_dtype": "model.dtype",
    "load_in_4bit": "model.quantization: nf4",
    "load_in_8bit": "model.quantization: int8",
    "bnb_4bit_quant_type": "model.quantization",
    # data
    "dataset": "data.train",
    "datasets": "data.train",
    "dataset_name": "data.train",
    "train_dataset": "data.train",
    "eval_dataset": "data.eval",
    "val_dataset": "data.eval",
    "val_set_size": "data.eval",
    "val_size": "data.eval",
    "split_dataset_ratio": "data.eval",
    "max_seq_length": "data.max_length",
    "max_length": "data.max_length",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "truncation_strategy": "data.overlong",
    "data_seed": "data.seed",
    # training
    "output_dir": "training.output",
    "num_train_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "lr": "training.learning_rate",
    "learning_rate": "training.learning_rate",
    "lr_scheduler": "training.schedule",
    "lr_scheduler_type": "training.schedule",
    "warmup_ratio": "training.warmup_ratio",
    "optim": "training.optimizer",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "gradient_clipping": "training.max_grad_norm",
    "activation_checkpointing": "training.gradient_checkpointing",
    "save_total_limit": "training.keep_checkpoints",
    "report_to": "training.trackers",
    "logging_steps": "training.logging_steps",
    "eval_steps": "training.eval_steps",
    "save_steps": "training.save_steps",
    # accelerate
    "num_processes": "distributed.num_processes",
    "num_machines": "distributed.num_machines",
    "machine_rank": "distributed.machine_rank",
    "main_process_ip": "distributed.main_address",
    "main_process_port": "distributed.main_port",
}

_EARLY = "not there yet: Ctrl-C saves and stops, `training.max_steps` ends a run early"
_BEST = (
    "not there yet: the last step's adapter is the result; `training.keep_checkpoints` keeps "
    "earlier ones"
)
_FROM_ADAPTER = (
    "not there yet: merge the adapter (`lorawright merge RUN`) and name the merged folder as "
    "`model.name`"
)
_FEWER = "not there yet: put so many rows into a file of their own and name it as `data.train`"
_MIXED = "not there yet: a folder's files are read whole; repeat rows in them to weigh them"
_NOISE = "not there yet: such noise depends on how chats are packed; `lora.dropout` does not"

GONE = (("training", "compile"),)
"""Keys of earlier versions: refused with a hint in a config, passed over in an old run's own."""

EXPLAINED: dict[str, str] = {
    "compile": "not needed: compiling the norms brought 1.5 % of a step, and is gone",
    "per_device_train_batch_size": (
        "write `training.batch_size`: chats per optimizer step over all processes together; how "
        "many go through the model at once is `training.tokens_per_pass`"
    ),
    "gradient_accumulation_steps": (
        "write `training.batch_size`: chats per optimizer step over all processes together; the "
        "accumulation follows from it"
    ),
    "train_batch_size": "write `training.batch_size`: chats per step over all processes together",
    "train_micro_batch_size_per_gpu": "not needed: it follows from `training.tokens_per_pass`",
    "per_device_eval_batch_size": (
        "not needed: evaluation uses `training.tokens_per_pass` and its loss is a mean over tokens"
    ),
    "eval_batch_size": "not needed: evaluation uses `training.tokens_per_pass`",
    "warmup_steps": "write `training.warmup_ratio`: the share of the steps that warm up",
    "bf16": "write `model.dtype: bfloat16`, or leave `auto`",
    "fp16": "write `model.dtype: float16`, or leave `auto`",
    "mixed_precision": "write `model.dtype`; it stands once and holds for every process",
    "assistant_only_loss": "write `data.train_on: assistant` (the default)",
    "completion_only_loss": "write `data.train_on: last_assistant`, or use prompt/completion rows",
    "train_on_inputs": "write `data.train_on: all`",
    "train_on_prompt": "write `data.train_on: all`",
    "packing": "not needed: chats are packed by `training.tokens_per_pass`, without cross-talk",
    "padding_free": "not needed: passes hold no padding",
    "sample_packing": "not needed: chats are packed by `training.tokens_per_pass`",
    "chat_template": "not needed: the tokenizer's own template is the only one",
    "chat_template_path": "not needed: the tokenizer's own template is the only one",
    "template": "not needed: the tokenizer's own template is the only one",
    "task_type": "not needed: it is always CAUSAL_LM",
    "adapter": (
        "not needed: it is always LoRA; going on from an adapter is not there yet: merge it "
        "(`lorawright merge RUN`) and name the merged folder as `model.name`"
    ),
    "label_names": "not needed",
    "do_eval": "not needed: it follows from `data.eval`",
    "do_train": "not needed",
    "eval_strategy": "not needed: it follows from `data.eval` and `training.eval_steps`",
    "evaluation_strategy": "not needed: it follows from `data.eval` and `training.eval_steps`",
    "save_strategy": "not needed: it follows from `training.save_steps`",
    "logging_strategy": "not needed: it follows from `training.logging_steps`",
    "logging_dir": "not needed: TensorBoard's files are in `tensorboard/` of the run folder",
    "deepspeed": "write `distributed.strategy: zero1`, `zero2` or `zero3`",
    "deepspeed_config": (
        "write `distributed.strategy: zero1`, `zero2` or `zero3`; the file is made from it"
    ),
    "zero_stage": "write `distributed.strategy: zero1`, `zero2` or `zero3`",
    "distributed_type": "write `distributed.strategy`",
    "fsdp": "write `distributed.strategy: fsdp2`",
    "offload_optimizer_device": "write `distributed.offload_optimizer: true`",
    "offload_param_device": "write `distributed.offload_parameters: true`",
    "ddp_timeout": "write `distributed.timeout_seconds`",
    "use_cpu": "not needed: the device is found, and printed",
    "processing_class": "not needed: the tokenizer comes with `model.name`",
    "pad_token": "not needed: there is no padding, and the model's own pad token stays",
    "eos_token": "not needed: the turn's end is derived from the chat template",
    "micro_batch_size": (
        "write `training.batch_size`: chats per optimizer step over all processes together; how "
        "many go through the model at once is `training.tokens_per_pass`"
    ),
    "group_by_length": "not needed: passes hold no padding",
    "flash_attn": "not needed: the attention is chosen, `lorawright doctor` shows it",
    "attn_implementation": "not needed: the attention is chosen, `lorawright doctor` shows it",
    "lr_scheduler_kwargs": "write `training.trl: {lr_scheduler_kwargs: {…}}`",
    "adam_beta1": "write `training.trl: {adam_beta1: …}`",
    "adam_beta2": "write `training.trl: {adam_beta2: …}`",
    "adam_epsilon": "write `training.trl: {adam_epsilon: …}`",
    "run_name": "write `training.trl: {run_name: …}`",
    "wandb_project": "not there yet: set the environment variable WANDB_PROJECT",
    "wandb_name": "write `training.trl: {run_name: …}`",
    "push_to_hub": "not needed: `lorawright push RUN REPO` uploads a finished adapter",
    "hub_model_id": "not needed: `lorawright push RUN REPO` uploads a finished adapter",
    "early_stopping_patience": _EARLY,
    "early_stopping_threshold": _EARLY,
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "adapter_name_or_path": _FROM_ADAPTER,
    "lora_model_dir": _FROM_ADAPTER,
    "resume_lora_training": _FROM_ADAPTER,
    "modules_to_save": (
        "not there yet: embeddings and heads are not trained whole; `lora.target_modules` may name "
        "`embed_tokens`"
    ),
    "init_lora_weights": "not there yet: an adapter begins with PEFT's usual weights",
    "rank_pattern": "not there yet: one `lora.rank` holds for all modules",
    "alpha_pattern": "not there yet: one `lora.alpha` holds for all modules",
    "layers_to_transform": (
        "not there yet: name layers by a regular expression in `lora.target_modules`"
    ),
    "loraplus_lr_ratio": "not there yet: one `training.learning_rate` holds for both matrices",
    "max_samples": _FEWER,
    "max_train_samples": _FEWER,
    "max_eval_samples": _FEWER,
    "mix_strategy": _MIXED,
    "interleave_probs": _MIXED,
    "neftune_noise_alpha": _NOISE,
    "noisy_embedding_alpha": _NOISE,
    "label_smoothing_factor": (
        "not there yet: the loss is the mean over a step's trained tokens, nothing else"
    ),
    "use_liger_kernel": "not needed: passes, norms and the loss have kernels of their own",
    "enable_liger_kernel": "not needed: passes, norms and the loss have kernels of their own",
}


def advice(name: str, section: str) -> str | None:
    """What to write instead of a foreign `name` found in `section`; None if it is not known.

    A name that we use as well, in another section, is answered with that section.
    """
    if name in EXPLAINED:
        return EXPLAINED[name]
    ours = RENAMED.get(name)
    if ours is None or ours == f"{section}.{name}":
        return None
    return f"write `{ours}`"
