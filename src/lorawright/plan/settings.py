"""config + hardware + data → what will be done: no `auto` left, each choice with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from lorawright.config.schema import Config, Dtype, Quantization, Strategy
from lorawright.errors import ConfigError, ModelError
from lorawright.hardware import Device, Hardware
from lorawright.model import attention
from lorawright.plan import architecture, estimate, strategy
from lorawright.plan.architecture import Architecture
from lorawright.plan.estimate import Memory, ModelShape

# Between 1k and 2k tokens a pass is at its best on the CPUs measured; more only costs memory.
USUAL_TOKENS_PER_PASS = {Device.CPU: 2048, Device.MPS: 4096, Device.CUDA: 8192}
MEMORY_SHARE = 0.9  # of what is free; the rest is for the allocator's slack

BYTES_PER_WEIGHT = {
    Dtype.FLOAT32: 4.0,
    Dtype.BFLOAT16: 2.0,
    Dtype.FLOAT16: 2.0,
}
BYTES_QUANTIZED = {Quantization.INT8: 1.0, Quantization.NF4: 0.55}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config without `auto`.

    Attributes:
        config: What will be run.
        reasons: Dotted key → why it has its value, for each value that was derived.
        memory: The estimate it rests on; None where the model's sizes are not known.
        hardware: The machine it was decided for.
    """

    config: Config
    reasons: dict[str, str]
    memory: Memory | None
    hardware: Hardware

    @property
    def too_large(self) -> Memory | None:
        """The estimate, where it is more than the machine has free."""
        if self.memory is None or self.memory.total <= self.hardware.memory_bytes:
            return None
        return self.memory


def resolve(config: Config, hardware: Hardware, folder: Path, longest_tokens: int) -> Resolved:
    """Replaces every `auto`.

    Args:
        config: As written.
        hardware: Facts of this machine.
        folder: The model's, for its sizes.
        longest_tokens: Tokens of the longest chat of the run.

    Raises:
        ConfigError: A setting that this machine cannot do.
    """
    _refuse_impossible(config, hardware)
    reasons: dict[str, str] = {}
    known = architecture.read(folder, trust_remote_code=config.model.trust_remote_code)
    _note_family(config, known, reasons)
    model = {"dtype": _dtype(config, hardware, reasons)}
    training = {"optimizer": _optimizer(config, hardware, reasons)}
    shape = estimate.read_shape(folder)
    processes = strategy.num_processes(config.distributed, hardware, reasons)
    hardware = _one_share(hardware, processes // config.distributed.num_machines)
    config = _laid_out(config, known, longest_tokens, reasons)
    whole_logits = known.scaled_logits is not None
    tokens, checkpointing, needed = _memory(
        config, Dtype(model["dtype"]), hardware, shape, longest_tokens, whole_logits, reasons
    )
    room = int(hardware.memory_bytes * MEMORY_SHARE)
    chosen = strategy.choose(config.distributed, processes, needed, room, reasons)
    if chosen in strategy.DEEPSPEED:
        _require("deepspeed", "distributed.strategy", chosen)
    distributed = {"strategy": chosen, "num_processes": processes}
    settled = config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "training": config.training.model_copy(
                update={
                    **training,
                    "tokens_per_pass": tokens,
                    "gradient_checkpointing": checkpointing,
                }
            ),
            "distributed": config.distributed.model_copy(update=distributed),
        }
    )
    _refuse_float16_in_parts(settled)
    return Resolved(settled, reasons, needed, hardware)


def attention_of(config: Config, hardware: Hardware, folder: Path) -> str:
    """The attention that a resolved config trains with, see `attention.choose`.

    One chat a pass with nothing shared asks nothing of it, so the model's own serves: a way out
    for families that ours does not fit.
    """
    if config.training.tokens_per_pass == 1 and not config.training.share_prefixes:
        return attention.OWN
    known = architecture.read(folder, trust_remote_code=config.model.trust_remote_code)
    return attention.choose(known, hardware.device, config.model.dtype, hardware.capability)


def _one_share(hardware: Hardware, num_here: int) -> Hardware:
    """What one process has of the machine: a GPU of its own, or a part of the CPU's memory."""
    threads = max(1, hardware.num_threads // num_here)
    if hardware.device is not Device.CPU:
        return replace(hardware, num_threads=threads)
    memory = hardware.memory_bytes // num_here
    return replace(hardware, num_threads=threads, memory_bytes=memory)


# package behind a setting → how it is installed
PACKAGES = {
    "bitsandbytes": "pip install 'lorawright[quantization]'",
    "deepspeed": "pip install 'lorawright[deepspeed]'",
    "tensorboard": "pip install tensorboard",
    "wandb": "pip install wandb",
    "trackio": "pip install trackio",
    "swanlab": "pip install swanlab",
    "mlflow": "pip install mlflow",
}


def _refuse_impossible(config: Config, hardware: Hardware) -> None:
    if config.model.quantization is not Quantization.NONE:
        _require("bitsandbytes", "model.quantization", config.model.quantization)
    if any(mark in config.training.optimizer for mark in ("8bit", "32bit", "paged")):
        _require("bitsandbytes", "training.optimizer", config.training.optimizer)
    for tracker in config.training.trackers:
        _require(tracker, "training.trackers", tracker)
    if config.model.dtype is Dtype.FLOAT16 and hardware.device is Device.CPU:
        raise ConfigError(
            "`model.dtype` is `float16`, which has no use on a CPU",
            where="model.dtype",
            hint="write bfloat16, float32 or auto",
        )
    if config.model.quantization is Quantization.NF4 and hardware.device is Device.MPS:
        raise ConfigError(
            "`model.quantization` is `nf4`, which bitsandbytes does not do on an Apple GPU",
            where="model.quantization",
            hint="write none",
        )


def _require(package: str, key: str, value: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"`{value}` needs the package {package}, which is not installed",
            where=key,
            hint=PACKAGES[package],
        )


def _dtype(config: Config, hardware: Hardware, reasons: dict[str, str]) -> Dtype:
    if config.model.dtype is not Dtype.AUTO:
        return config.model.dtype
    if hardware.bfloat16:
        reasons["model.dtype"] = f"{hardware.name} multiplies bfloat16 in hardware"
        return Dtype.BFLOAT16
    if hardware.device is Device.CUDA:
        reasons["model.dtype"] = (
            f"{hardware.name} has no bfloat16 arithmetic; float16 is 8 times as fast as float32 on "
            "a T4"
        )
        return Dtype.FLOAT16
    reasons["model.dtype"] = f"{hardware.name} has no bfloat16 arithmetic"
    return Dtype.FLOAT32


def _optimizer(config: Config, hardware: Hardware, reasons: dict[str, str]) -> str:
    if config.training.optimizer != "auto":
        return config.training.optimizer
    if hardware.device is Device.CUDA and find_spec("bitsandbytes") is not None:
        reasons["training.optimizer"] = "CUDA: 8-bit moments, paged to the CPU when memory is short"
        return "paged_adamw_8bit"
    if hardware.device is Device.CUDA:
        reasons["training.optimizer"] = "bitsandbytes is not installed (lorawright[quantization])"
        return "adamw_torch_fused"
    reasons["training.optimizer"] = "paged 8-bit Adam is for CUDA; this is exact and fast"
    return "adamw_torch_fused"


def _note_family(config: Config, known: Architecture, reasons: dict[str, str]) -> None:
    """What a family does otherwise than one would think."""
    if known.noise:
        listed = ", ".join(f"{key} {rate}" for key, rate in known.noise.items())
        reasons["lora.dropout"] = f"of the adapter alone: the base's own is off ({listed})"
    if known.has_experts and config.lora.target_modules == "all-linear":
        reasons["lora.target_modules"] = (
            "in this mixture of experts the experts and the router may be among them: such an "
            "adapter serves with Transformers and PEFT, `merge` and `export` refuse it; name the "
            "layers of the attention for one that they take"
        )


def _laid_out(
    config: Config, known: Architecture, longest_tokens: int, reasons: dict[str, str]
) -> Config:
    """Chats side by side and prefixes once only where the model computes them so."""
    if known.rope == "dynamic" and longest_tokens > known.rope_tokens:
        raise ModelError(
            f"{known.model_type} with rope `dynamic` computes a chat by the longest one before it, "
            f"and the longest has {longest_tokens} tokens, over {known.rope_tokens}",
            where="model.name",
            hint=f"write `data.max_length: {known.rope_tokens}`, or `yarn` or `linear` in its "
            "config",
        )
    training = config.training
    shares, tokens = training.share_prefixes, training.tokens_per_pass
    alone = known.one_chat_a_pass(longest_tokens)
    if alone is not None:
        reasons["training.tokens_per_pass"] = f"one chat a pass: {alone}"
        shares, tokens = False, 1
    elif known.more_than_causal:
        shares = False
    if training.share_prefixes and not shares:
        reasons["training.share_prefixes"] = alone or "this model's attention is more than causal"
    update: dict[str, object] = {"share_prefixes": shares, "tokens_per_pass": tokens}
    if not known.checkpoints and training.gradient_checkpointing is not False:
        reasons["training.gradient_checkpointing"] = f"{known.model_type} has none"
        update["gradient_checkpointing"] = False
    return config.model_copy(update={"training": training.model_copy(update=update)})


def _refuse_float16_in_parts(config: Config) -> None:
    if config.model.dtype is Dtype.FLOAT16 and config.distributed.strategy not in (
        Strategy.NONE,
        Strategy.DDP,
    ):
        raise ConfigError(
            f"`distributed.strategy` is `{config.distributed.strategy}`, and the GPUs compute in "
            "float16: it would make the adapter float16 too",
            where="distributed.strategy",
            hint="write ddp, with `model.quantization: nf4` for a base that is too large; or "
            "`model.dtype: float32`",
        )


def _memory(
    config: Config,
    dtype: Dtype,
    hardware: Hardware,
    shape: ModelShape | None,
    longest_tokens: int,
    whole_logits: bool,
    reasons: dict[str, str],
) -> tuple[int, bool, Memory | None]:
    """tokens_per_pass and gradient_checkpointing, from what one pass may hold."""
    given = config.training.tokens_per_pass
    usual = USUAL_TOKENS_PER_PASS[hardware.device]
    tokens = max(usual, longest_tokens) if given == "auto" else given
    wish = config.training.gradient_checkpointing
    if shape is None:
        if given == "auto":
            reasons["training.tokens_per_pass"] = "the usual size; the model's sizes are unknown"
        if wish == "auto":
            reasons["training.gradient_checkpointing"] = "on: the model's sizes are unknown"
        return tokens, wish is True or wish == "auto", None

    def needed(num_tokens: int, checkpointing: bool) -> Memory:
        quantized = BYTES_QUANTIZED.get(config.model.quantization)
        return estimate.memory(
            shape,
            bytes_per_weight=quantized or BYTES_PER_WEIGHT[dtype],
            rank=config.lora.rank,
            tokens_per_pass=min(
                max(num_tokens, longest_tokens), longest_tokens * config.training.batch_size
            ),
            checkpointing=checkpointing,
            bytes_per_activation=4 if dtype is Dtype.FLOAT32 else 2,
            whole_logits=whole_logits,
        )

    room = int(hardware.memory_bytes * MEMORY_SHARE)
    checkpointing = wish is True
    if wish == "auto":
        least = max(longest_tokens, min(tokens, usual // 2)) if given == "auto" else tokens
        checkpointing = needed(least, False).total > room
        reasons["training.gradient_checkpointing"] = (
            f"{_gb(needed(least, False).total)} without it, {_gb(room)} to use"
        )
    if given == "auto":
        while tokens > longest_tokens and needed(tokens, checkpointing).total > room:
            tokens = max(longest_tokens, tokens * 3 // 4)
        reasons["training.tokens_per_pass"] = (
            f"longest chat {longest_tokens}, {_gb(needed(tokens, checkpointing).total)} of "
            f"{_gb(room)} to use"
        )
    return tokens, checkpointing, needed(tokens, checkpointing)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
