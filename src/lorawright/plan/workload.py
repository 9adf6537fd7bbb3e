"""Run plan → passes, tokens and seconds of the whole run, before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from lorawright import hardware
from lorawright.plan import estimate
from lorawright.plan.estimate import Times
from lorawright.plan.run_plan import RunPlan
from lorawright.plan.steps import Plan
from lorawright.run.events import RunPlanned

COUNTED_STEPS = 2048  # a longer plan is counted by every n-th step


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


def totals(steps: Plan) -> Totals:
    """Counts a plan's steps; shared prefixes are found step by step, so long plans are sampled."""
    stride = -(-steps.num_steps // COUNTED_STEPS)
    counted = [steps[number] for number in range(0, steps.num_steps, stride)]
    factor = steps.num_steps / len(counted)
    return Totals(
        num_passes=round(factor * sum(len(rank) for step in counted for rank in step.passes)),
        largest_pass=max(one.num_tokens for s in counted for rank in s.passes for one in rank),
        num_tokens=round(factor * sum(step.num_tokens for step in counted)),
        num_trained_tokens=round(factor * sum(step.num_trained_tokens for step in counted)),
        num_computed_tokens=round(factor * sum(step.num_computed_tokens for step in counted)),
        exact=stride == 1,
    )


def times(plan: RunPlan, num_computed_tokens: int, num_trained_tokens: int) -> Times | None:
    """Time of the whole run, from one matrix product that is measured for 0.2 s.

    Args:
        plan: The run.
        num_computed_tokens: Of all steps, from `totals`.
        num_trained_tokens: Of these, the trained ones.

    Returns:
        None where the model's sizes are unknown.
    """
    shape = estimate.read_shape(plan.tokenizer_folder)
    if shape is None:
        return None
    training, num_ranks = plan.config.training, plan.config.distributed.num_processes
    assert isinstance(training.tokens_per_pass, int) and isinstance(num_ranks, int)
    flops = estimate.product_flops(
        shape,
        num_tokens=num_computed_tokens,
        num_trained_tokens=num_trained_tokens,
        checkpointing=training.gradient_checkpointing is True,
    )
    speed = hardware.measure_flops(
        plan.settings.hardware.device,
        str(plan.config.model.dtype),
        min(training.tokens_per_pass, 2048),
        shape.hidden,
        shape.ffn,
    )
    seconds_per_flop = estimate.TIME_OVER_PRODUCTS / speed / num_ranks
    evaluation = plan.chats.eval
    if evaluation is None:
        return Times(seconds_per_flop * flops, 0.0, 0)
    one = estimate.forward_flops(
        shape,
        num_tokens=int(evaluation.num_tokens_N.sum()),
        num_trained_tokens=int(evaluation.num_trained_N.sum()),
    )
    regular, rest = divmod(plan.steps.num_steps, training.eval_steps)
    return Times(seconds_per_flop * flops, seconds_per_flop * one, 1 + regular + bool(rest))


def summary(plan: RunPlan) -> RunPlanned:
    """What is told of a plan before it is carried out; its time as if no prefix were shared.

    Where processes are launched on GPUs the time is left out: the launcher takes no memory of the
    GPUs that its processes need.
    """
    train, epochs = plan.chats.train, plan.steps.num_steps / plan.steps.steps_per_epoch
    launched = plan.config.distributed.num_processes != 1
    found = None
    if not launched or plan.settings.hardware.device is hardware.Device.CPU:
        num_tokens, num_trained = train.num_tokens_N.sum(), train.num_trained_N.sum()
        found = times(plan, int(num_tokens * epochs), int(num_trained * epochs))
    memory = plan.settings.memory
    return RunPlanned(
        num_steps=plan.steps.num_steps,
        batch_size=plan.steps.batch_size,
        epochs=plan.config.training.epochs,
        settings={key.partition(".")[2]: _value(plan, key) for key in plan.settings.reasons},
        output=plan.config.training.output,
        memory_bytes=None if memory is None else memory.total,
        seconds=None if found is None else found.total,
        evaluation_seconds=0.0 if found is None else found.evaluations,
    )


def _value(plan: RunPlan, key: str) -> str:
    section, _, name = key.partition(".")
    return str(getattr(getattr(plan.config, section), name))
