"""Config, hardware and sizes → the same config without `auto`, each choice with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from lorawright.config.load import parameter_problems
from lorawright.config.schema import Config, Dtype, Quantization, Strategy
from lorawright.errors import ConfigError, ModelError
from lorawright.hardware import Device, Hardware
from lorawright.i18n import units
from lorawright.plan import adapted, architecture, estimate, strategy
from lorawright.plan.architecture import Architecture
from lorawright.plan.estimate import Memory, ModelShape
from lorawright.plan.setting import Setting, lay_over

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
class Settings:
    """A config without `auto`.

    Attributes:
        config: What will be run.
        reasons: Dotted key → why it has its value, for each value that was derived.
        memory: The estimate it rests on; None where the model's sizes are not known.
        hardware: One process's share of the machine it was decided for.
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


def settle(config: Config, hardware: Hardware, folder: Path, longest_tokens: int) -> Settings:
    """Replaces every `auto`.

    Args:
        config: As written.
        hardware: Facts of this machine.
        folder: The model's, for its sizes.
        longest_tokens: Tokens of the longest chat of the run.

    Raises:
        ConfigError: A setting that this machine cannot do.
        ModelError: A chat is longer than the model can be trained on, or it has no such layer.
    """
    _refuse_impossible(config, hardware)
    trust = config.model.trust_remote_code
    known = architecture.read(folder, trust_remote_code=trust)
    base = adapted.skeleton(folder, trust_remote_code=trust)
    if base is not None:
        adapted.refuse_unknown(base, config.lora)
    settled = {
        **_of_the_family(config, known, base),
        "model.dtype": _dtype(config, hardware),
        "training.optimizer": _optimizer(config, hardware),
        "distributed.num_processes": strategy.num_processes(config.distributed, hardware),
        **_passes_of_the_family(config, known, longest_tokens),
    }
    config = lay_over(config, settled)
    num_processes = config.distributed.num_processes
    assert isinstance(num_processes, int)
    share = _one_share(hardware, num_processes // config.distributed.num_machines)
    need = _Need.of(config, known, estimate.read_shape(folder), longest_tokens)
    passes = _passes(config, share, need)
    settled |= passes
    config = lay_over(config, passes)
    memory = need.memory(config.training.tokens_per_pass, config.training.gradient_checkpointing)
    chosen = strategy.choose(config.distributed, num_processes, memory, _usable_bytes(share))
    if chosen.value in strategy.DEEPSPEED:
        _require("deepspeed", "distributed.strategy", chosen.value)
    config = lay_over(config, {"distributed.strategy": chosen})
    settled["distributed.strategy"] = chosen
    _refuse_float16_in_parts(config)
    _refuse_parameters_in_parts(config)
    reasons = {key: one.reason for key, one in settled.items() if one.reason is not None}
    return Settings(config, reasons, memory, share)


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
    for what, hint in parameter_problems(config.lora):
        raise ConfigError(what, where="lora.target_parameters", hint=hint)
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


def _dtype(config: Config, hardware: Hardware) -> Setting[Dtype]:
    if config.model.dtype is not Dtype.AUTO:
        return Setting(config.model.dtype)
    if hardware.bfloat16:
        return Setting(Dtype.BFLOAT16, f"{hardware.name} multiplies bfloat16 in hardware")
    if hardware.device is Device.CUDA:
        return Setting(
            Dtype.FLOAT16,
            f"{hardware.name} has no bfloat16 arithmetic; float16 is 8 times as fast as float32 on "
            "a T4",
        )
    return Setting(Dtype.FLOAT32, f"{hardware.name} has no bfloat16 arithmetic")


def _optimizer(config: Config, hardware: Hardware) -> Setting[str]:
    if config.training.optimizer != "auto":
        return Setting(config.training.optimizer)
    if hardware.device is Device.CUDA and find_spec("bitsandbytes") is not None:
        return Setting(
            "paged_adamw_8bit", "CUDA: 8-bit moments, paged to the CPU when memory is short"
        )
    if hardware.device is Device.CUDA:
        return Setting(
            "adamw_torch_fused", "bitsandbytes is not installed (lorawright[quantization])"
        )
    return Setting("adamw_torch_fused", "paged 8-bit Adam is for CUDA; this is exact and fast")


def _of_the_family(config: Config, known: Architecture, base: Any) -> dict[str, Setting[Any]]:
    """What a family does otherwise than one would think: values stay, a reason is told."""
    found: dict[str, Setting[Any]] = {}
    if known.noise:
        listed = ", ".join(f"{key} {rate}" for key, rate in known.noise.items())
        reason = f"of the adapter alone: the base's own is off ({listed})"
        found["lora.dropout"] = Setting(config.lora.dropout, reason)
    left = _not_adapted(config, known, base)
    if left is not None:
        found["lora.target_modules"] = Setting(config.lora.target_modules, left)
    return found


def _not_adapted(config: Config, known: Architecture, base: Any) -> str | None:
    """What `all-linear` leaves of experts and Mamba layers; None: nothing, or not asked for.

    Args:
        config: The run's.
        known: Of the family.
        base: The model without weights, or None.
    """
    if base is None or config.lora.target_modules != adapted.ALL_LINEAR:
        return None
    left = adapted.left_out(base, config.lora)
    if not left.names or not (known.has_experts or adapted.unfit(base)):
        return None
    if not known.has_experts:
        listed = adapted.listed(left.names)
        return f"not adapted: {listed}; PEFT has no adapters for them in this family"
    return (
        f"not adapted: {adapted.listed(left.names)}, {left.share:.0%} of the weights; "
        "`lora.target_parameters` adapts those it names, with `lora.dropout: 0`"
    )


def _passes_of_the_family(
    config: Config, known: Architecture, longest_tokens: int
) -> dict[str, Setting[Any]]:
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
    found: dict[str, Setting[Any]] = {}
    alone = known.one_chat_a_pass(longest_tokens)
    if alone is not None:
        found["training.tokens_per_pass"] = Setting(1, f"one chat a pass: {alone}")
    if training.share_prefixes and (alone is not None or known.hidden_rules):
        reason = alone or "only this model's own attention knows which tokens see which"
        found["training.share_prefixes"] = Setting(False, reason)
    if not known.checkpoints and training.gradient_checkpointing is not False:
        reason = f"{known.model_type} has none"
        found["training.gradient_checkpointing"] = Setting(False, reason)
    return found


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


def _refuse_parameters_in_parts(config: Config) -> None:
    """PEFT adds to a parameter of `target_parameters` as a whole, before its module computes."""
    chosen = config.distributed.strategy
    if config.lora.target_parameters and chosen in (Strategy.ZERO3, Strategy.FSDP2):
        raise ConfigError(
            f"`distributed.strategy` is `{chosen}`, which divides the weights that "
            "`lora.target_parameters` adapts",
            where="lora.target_parameters",
            hint="write ddp, zero1 or zero2; or leave `lora.target_parameters` out",
        )


@dataclass(frozen=True, slots=True)
class _Need:
    """What a pass needs of a model: a function of its tokens, once the rest is settled."""

    config: Config
    shape: ModelShape | None
    whole_logits: bool
    longest_tokens: int

    @classmethod
    def of(
        cls, config: Config, known: Architecture, shape: ModelShape | None, longest_tokens: int
    ) -> Self:
        # ZeRO-3 has divided the weights: there the scaling is not measured
        whole = known.scales_logits and config.distributed.strategy is Strategy.ZERO3
        return cls(config, shape, whole, longest_tokens)

    def memory(self, num_tokens: int | str, checkpointing: bool | str) -> Memory | None:
        """The estimate for passes of so many tokens; None where sizes are unknown."""
        if self.shape is None:
            return None
        assert isinstance(num_tokens, int)
        return self._of_shape(self.shape, num_tokens, checkpointing is True)

    def total(self, num_tokens: int, checkpointing: bool) -> int:
        assert self.shape is not None
        return self._of_shape(self.shape, num_tokens, checkpointing).total

    def _of_shape(self, shape: ModelShape, num_tokens: int, checkpointing: bool) -> Memory:
        dtype, longest = self.config.model.dtype, self.longest_tokens
        quantized = BYTES_QUANTIZED.get(self.config.model.quantization)
        return estimate.memory(
            shape,
            bytes_per_weight=quantized or BYTES_PER_WEIGHT[dtype],
            rank=self.config.lora.rank,
            tokens_per_pass=min(
                max(num_tokens, longest), longest * self.config.training.batch_size
            ),
            checkpointing=checkpointing,
            bytes_per_activation=4 if dtype is Dtype.FLOAT32 else 2,
            whole_logits=self.whole_logits,
        )


def _passes(config: Config, hardware: Hardware, need: _Need) -> dict[str, Setting[Any]]:
    """tokens_per_pass and gradient_checkpointing, from what one pass may hold."""
    given, wish = config.training.tokens_per_pass, config.training.gradient_checkpointing
    usual, longest = USUAL_TOKENS_PER_PASS[hardware.device], need.longest_tokens
    tokens = max(usual, longest) if given == "auto" else given
    found: dict[str, Setting[Any]] = {}
    if need.shape is None:
        if wish == "auto":
            reason = "on: the model's sizes are unknown"
            found["training.gradient_checkpointing"] = Setting(True, reason)
        if given == "auto":
            reason = "the usual size; the model's sizes are unknown"
            found["training.tokens_per_pass"] = Setting(tokens, reason)
        return found
    usable = _usable_bytes(hardware)
    checkpointing = wish is True
    if wish == "auto":
        least = max(longest, min(tokens, usual // 2)) if given == "auto" else tokens
        checkpointing = need.total(least, False) > usable
        found["training.gradient_checkpointing"] = Setting(
            checkpointing,
            f"{units.size(need.total(least, False))} without it, {units.size(usable)} to use",
        )
    if given == "auto":
        while tokens > longest and need.total(tokens, checkpointing) > usable:
            tokens = max(longest, tokens * 3 // 4)
        found["training.tokens_per_pass"] = Setting(
            tokens,
            f"longest chat {longest}, {units.size(need.total(tokens, checkpointing))} of "
            f"{units.size(usable)} to use",
        )
    return found


def _usable_bytes(hardware: Hardware) -> int:
    return int(hardware.memory_bytes * MEMORY_SHARE)
