"""A run that is settled before a model is loaded: chats, resolved settings, plan, time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lorawright import hardware, hub
from lorawright.config.schema import Config
from lorawright.dataset import prepare
from lorawright.dataset.prepare import Prepared
from lorawright.dataset.store import ChatStore
from lorawright.model import compiled
from lorawright.plan import estimate, target_modules
from lorawright.plan.estimate import Times
from lorawright.plan.settings import Resolved, resolve
from lorawright.plan.steps import Order, Plan
from lorawright.run.events import Screen

EVALUATION_CHATS = 64  # that share prefixes in an evaluation
COMPILED_CHATS = 1000  # fewer are too short a run to compile for, on any machine
COUNTED_STEPS = 2048  # a longer plan is counted by every n-th step


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that is settled, before a model is loaded."""

    prepared: Prepared
    resolved: Resolved
    plan: Plan
    model_folder: Path  # at least tokenizer and config; weights may still be on the hub

    @property
    def config(self) -> Config:
        return self.resolved.config


@dataclass(frozen=True, slots=True)
class Totals:
    """What a plan amounts to.

    Attributes:
        num_passes: All ranks' passes.
        largest_pass: Tokens of the largest of them.
        num_tokens: Tokens of all its chats, epoch by epoch.
        num_trained_tokens: Of these, the trained ones.
        num_computed_tokens: Tokens that go through the model: shared prefixes once.
        exact: Whether every step was counted, or so many that the rest follows.
    """

    num_passes: int
    largest_pass: int
    num_tokens: int
    num_trained_tokens: int
    num_computed_tokens: int
    exact: bool


def get_ready(config: Config, screen: Screen) -> Ready:
    """Data, certificate, resolved settings and plan; no model yet."""
    prepared = prepare.run(config, progress=screen.rows)
    prepare.raise_errors(prepared)
    screen.prepared(prepared)
    folder = hub.tokenizer_folder(config.model.name, config.model.revision)
    target_modules.refuse_unknown(config.lora, folder)
    longest = int(prepared.train.num_tokens_N.max())
    if prepared.eval is not None:
        longest = max(longest, int(prepared.eval.num_tokens_N.max()))
    resolved = resolve(config, hardware.detect(), folder, longest)
    _warn_of_memory(resolved, screen)
    plan = make_plan(resolved.config, prepared.train)
    ready = _with_compiler(Ready(prepared, resolved, plan, folder))
    screen.planned(ready.resolved, plan, lambda: planned_times(ready))
    return ready


def _warn_of_memory(resolved: Resolved, screen: Screen) -> None:
    """An estimate above what is free: the system may end the run, and no error can say so then."""
    memory = resolved.too_large
    if memory is None:
        return
    needed, free = f"{memory.total / 1e9:.1f} GB", f"{resolved.hardware.memory_bytes / 1e9:.1f} GB"
    activations = memory.activations + memory.logits
    if memory.adapter >= max(memory.weights, activations):
        screen.warn(f"the run needs about {needed}, {free} are free; lower `lora.rank`")
    elif memory.weights >= activations:
        screen.warn(
            f"the run needs about {needed}, {free} are free; write `model.quantization: nf4`, or "
            "take a smaller model"
        )
    else:
        screen.warn(
            f"the run needs about {needed}, {free} are free; lower `training.tokens_per_pass` or "
            "`data.max_length`, or write `training.gradient_checkpointing: true`"
        )


def _with_compiler(ready: Ready) -> Ready:
    """`training.compile` settled: once, before ranks start, since it rests on a measured speed."""
    wish = ready.config.training.compile
    if wish != "auto":
        return ready
    long = ready.plan.num_steps * ready.plan.batch_size >= COMPILED_CHATS
    times = planned_times(ready) if long else None  # short runs are not worth a measurement
    seconds = None if times is None else times.steps
    decided, reason = compiled.pays(wish, seconds, ready.resolved.hardware.device)
    training = ready.config.training.model_copy(update={"compile": decided})
    resolved = replace(
        ready.resolved,
        config=ready.config.model_copy(update={"training": training}),
        reasons={**ready.resolved.reasons, "training.compile": reason},
    )
    return replace(ready, resolved=resolved)


def make_plan(config: Config, chats: ChatStore) -> Plan:
    """The plan of a resolved config."""
    training, num_ranks = config.training, config.distributed.num_processes
    assert isinstance(training.tokens_per_pass, int) and isinstance(num_ranks, int)
    return Plan(
        chats.num_tokens_N,
        chats.num_trained_N,
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


def evaluation_plan(config: Config, chats: ChatStore) -> Plan:
    """An evaluation set once, so many chats at a time that those which begin alike meet."""
    wide = {"batch_size": EVALUATION_CHATS, "epochs": 1, "max_steps": None}
    training = config.training.model_copy(update={**wide, "group_prefixes": False})
    return make_plan(config.model_copy(update={"training": training}), chats)


def totals(plan: Plan) -> Totals:
    """Counts a plan's steps; shared prefixes are found step by step, so long plans are sampled."""
    stride = -(-plan.num_steps // COUNTED_STEPS)
    steps = [plan[number] for number in range(0, plan.num_steps, stride)]
    factor = plan.num_steps / len(steps)
    return Totals(
        num_passes=round(factor * sum(len(rank) for step in steps for rank in step.passes)),
        largest_pass=max(one.num_tokens for s in steps for rank in s.passes for one in rank),
        num_tokens=round(factor * sum(step.num_tokens for step in steps)),
        num_trained_tokens=round(factor * sum(step.num_trained_tokens for step in steps)),
        num_computed_tokens=round(factor * sum(step.num_computed_tokens for step in steps)),
        exact=stride == 1,
    )


def estimate_times(ready: Ready, num_computed_tokens: int, num_trained_tokens: int) -> Times | None:
    """Time of the whole run, from one measured matrix product; None for unknown sizes."""
    shape = estimate.read_shape(ready.model_folder)
    if shape is None:
        return None
    training, num_ranks = ready.config.training, ready.config.distributed.num_processes
    assert isinstance(training.tokens_per_pass, int) and isinstance(num_ranks, int)
    flops = estimate.product_flops(
        shape,
        num_tokens=num_computed_tokens,
        num_trained_tokens=num_trained_tokens,
        checkpointing=training.gradient_checkpointing is True,
    )
    speed = hardware.measure_flops(
        ready.resolved.hardware.device,
        str(ready.config.model.dtype),
        min(training.tokens_per_pass, 2048),
        shape.hidden,
        shape.ffn,
    )
    seconds_per_flop = estimate.TIME_OVER_PRODUCTS / speed / num_ranks
    evaluation = ready.prepared.eval
    if evaluation is None:
        return Times(seconds_per_flop * flops, 0.0, 0)
    one = estimate.forward_flops(
        shape,
        num_tokens=int(evaluation.num_tokens_N.sum()),
        num_trained_tokens=int(evaluation.num_trained_N.sum()),
    )
    regular, rest = divmod(ready.plan.num_steps, training.eval_steps)
    return Times(seconds_per_flop * flops, seconds_per_flop * one, 1 + regular + bool(rest))


def planned_times(ready: Ready) -> Times | None:
    """A quick estimate of the whole run, as if nothing were shared."""
    train, epochs = ready.prepared.train, ready.plan.num_steps / ready.plan.steps_per_epoch
    num_tokens, num_trained = train.num_tokens_N.sum(), train.num_trained_N.sum()
    return estimate_times(ready, int(num_tokens * epochs), int(num_trained * epochs))
