"""Config → everything that is decided before a model is loaded, as one object that travels.

    config ─► chats (dataset) ─► settings without `auto` ─► steps        RunPlan.make
                                                              │
    run/launch/job.json ◄─ save ── the launching process ─────┘          read by each rank: `load`

Ranks read chats, settings and resume point from the file; none of them tokenizes, decides or looks
at all data again. On several machines each has its own; `shared` is what must be equal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lorawright import hardware, hub, masks
from lorawright.config.schema import Config
from lorawright.dataset import prepare
from lorawright.dataset.prepare import Prepared
from lorawright.dataset.store import ChatStore
from lorawright.i18n import units
from lorawright.masks import ChatTokenizer
from lorawright.plan import settings as settling
from lorawright.plan import target_modules
from lorawright.plan.settings import Settings
from lorawright.plan.steps import Order, Plan
from lorawright.run.events import ChatsPrepared, Noted, RowsRead, Tell
from lorawright.run.files import write_atomically

EVALUATION_CHATS = 64  # that share prefixes in an evaluation

TRAJECTORY = {
    "batch_size",
    "share_prefixes",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "optimizer",
    "seed",
    "trl",
}
"""Training settings that change what is learned; the others change memory, time and logging."""


@dataclass(frozen=True)
class RunPlan:
    """A run before a model is loaded.

    Attributes:
        settings: Config without `auto`, reasons, memory, hardware.
        chats: Encoded training and evaluation sets, statistics, certificate.
        tokenizer: The model's tokenizer and chat template, as the chats were encoded with.
        tokenizer_folder: Where they lie; at least tokenizer and config, weights may be on the hub.
        base_folder: The base with its weights; None until `with_base`.
        identity: What must be equal for a resumed run to be the same run; empty until `with_base`.
        resume_from: The checkpoint to go on from, or None.
        resume_command: What goes on with the run after a stop; None if a program has started it.
    """

    settings: Settings
    chats: Prepared
    tokenizer: ChatTokenizer
    tokenizer_folder: Path
    base_folder: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    resume_from: Path | None = None
    resume_command: list[str] | None = None

    @property
    def config(self) -> Config:
        return self.settings.config

    @cached_property
    def steps(self) -> Plan:
        """Which chats make which optimizer step."""
        return make_steps(self.config, self.chats.train)

    @cached_property
    def evaluation_steps(self) -> Plan | None:
        """The evaluation set once, so many chats at a time that those which begin alike meet."""
        if self.chats.eval is None:
            return None
        wide = {"batch_size": EVALUATION_CHATS, "epochs": 1, "max_steps": None}
        training = self.config.training.model_copy(update={**wide, "group_prefixes": False})
        return make_steps(self.config.model_copy(update={"training": training}), self.chats.eval)

    @property
    def shared(self) -> dict[str, Any]:
        """What every process of every machine must have alike."""
        config = self.config.model_dump(mode="json")
        config["distributed"] = config["distributed"] | {"machine_rank": 0}
        return {"config": config, "identity": self.identity}

    def with_base(self) -> RunPlan:
        """The plan with its base; a hub id's weights are fetched here, before anything is compared.

        Raises:
            ModelError: It cannot be found.
        """
        wanted = self.config.model
        folder = hub.model_folder(wanted.name, wanted.revision, with_code=wanted.trust_remote_code)
        identity = {
            "model": wanted.model_dump(mode="json"),
            "base_weights": hub.weights_digest(folder),
            "lora": self.config.lora.model_dump(mode="json"),
            "training": self.config.training.model_dump(mode="json", include=TRAJECTORY),
            "num_steps": self.steps.num_steps,
            "plan": self.steps.sha256,
            "data": self.chats.certificate["data_sha256"],
            "template": self.chats.certificate["template_sha256"],
            "template_date": self.chats.certificate["template_date"],
            "template_variables": self.chats.certificate["template_variables"],
        }
        return replace(self, base_folder=folder, identity=identity)


def make(config: Config, tell: Tell) -> RunPlan:
    """Reads and encodes the chats, settles every `auto`, and plans the steps.

    Args:
        config: As loaded.
        tell: Takes what is found on the way.

    Raises:
        LorawrightError: Data, template, model or a setting is wrong.
    """
    folder = hub.tokenizer_folder(config.model.name, config.model.revision)
    tokenizer = _load_tokenizer(folder, config)
    config = _with_date(config, tokenizer)
    chats = prepare.run(config, tokenizer, progress=lambda num_rows: tell(RowsRead(num_rows)))
    prepare.raise_errors(chats)
    tell(ChatsPrepared(chats.problems))
    target_modules.refuse_unknown(config.lora, folder)
    settings = settling.settle(config, hardware.detect(), folder, chats.longest_tokens)
    for warning in (_memory_warning(settings), _merge_warning(folder)):
        if warning is not None:
            tell(Noted(warning, is_warning=True))
    return RunPlan(settings, chats, tokenizer, folder)


def _load_tokenizer(folder: Path, config: Config) -> ChatTokenizer:
    return masks.load(folder, config.model.name, config.template)


def _with_date(config: Config, tokenizer: ChatTokenizer) -> Config:
    """`template.date: auto` as the day that the chats of this run name, where they name one."""
    if tokenizer.template_date is None:
        return config
    template = config.template.model_copy(update={"date": tokenizer.date})
    return config.model_copy(update={"template": template})


def make_steps(config: Config, chats: ChatStore) -> Plan:
    """The steps of a resolved config."""
    training, num_ranks = config.training, config.distributed.num_processes
    assert isinstance(training.tokens_per_pass, int) and isinstance(num_ranks, int)
    return Plan(
        chats.num_tokens_N,
        chats.num_trained_N,
        starts_C=chats.starts_C,
        batch_size=training.batch_size,
        num_epochs=training.epochs,
        seed=config.data.seed,
        tokens_per_pass=training.tokens_per_pass,
        ids=chats.ids,
        sharing=training.share_prefixes,
        order=Order.GROUPED if training.group_prefixes else Order.SHUFFLED,
        num_ranks=num_ranks,
        max_steps=training.max_steps,
    )


@dataclass(frozen=True, slots=True)
class _File:
    """A plan as the ranks read it: chats, tokenizer and steps by where they come from."""

    settings: Settings
    chats: Path
    tokenizer_folder: Path
    base_folder: Path | None
    identity: dict[str, Any]
    resume_from: Path | None
    resume_command: list[str] | None


def save(plan: RunPlan, path: Path) -> None:
    """Writes a plan for the processes that train by it."""
    content = _File(
        plan.settings, plan.chats.folder, plan.tokenizer_folder, plan.base_folder, plan.identity,
        plan.resume_from, plan.resume_command,
    )  # fmt: skip
    write_atomically(path, TypeAdapter(_File).dump_json(content, indent=2))


def load(path: Path) -> RunPlan:
    """The plan that `save` has written."""
    found = TypeAdapter(_File).validate_json(path.read_bytes())
    return RunPlan(
        found.settings,
        prepare.reopen(found.chats),
        _load_tokenizer(found.tokenizer_folder, found.settings.config),
        found.tokenizer_folder,
        found.base_folder,
        found.identity,
        found.resume_from,
        found.resume_command,
    )


def _memory_warning(settings: Settings) -> str | None:
    """An estimate above what is free: the system may end the run, and no error can say so then."""
    memory = settings.too_large
    if memory is None:
        return None
    needed, free = units.size(memory.total), units.size(settings.hardware.memory_bytes)
    activations = memory.activations + memory.logits
    if memory.adapter >= max(memory.weights, activations):
        return f"the run needs about {needed}, {free} are free; lower `lora.rank`"
    if memory.weights >= activations:
        return (
            f"the run needs about {needed}, {free} are free; write `model.quantization: nf4`, or "
            "take a smaller model"
        )
    return (
        f"the run needs about {needed}, {free} are free; lower `training.tokens_per_pass` or "
        "`data.max_length`, or write `training.gradient_checkpointing: true`"
    )


def _merge_warning(folder: Path) -> str | None:
    """A base whose files are quantized has no weights that an adapter could be added to."""
    found = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    if not found:
        return None
    kind = found.get("quant_method", "quantized") if isinstance(found, dict) else "quantized"
    return (
        f"the weights in the base's files are quantized ({kind}): `merge`, and exports that merge, "
        "will refuse the adapter; name the unquantized base as `model.name` to have them"
    )
