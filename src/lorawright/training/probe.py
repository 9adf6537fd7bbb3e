"""Run plan → time and memory of the whole run, measured by its first steps.

    plan ──first three steps, in a folder that is thrown away──► seconds a product, peak memory
                                                                      │
    the whole plan's products and largest pass ───────────────────────┴─► seconds, bytes

The first step is left out of the time: it fills caches and starts thread pools.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from lorawright.config.schema import Config
from lorawright.distributed import launch_files
from lorawright.plan import estimate
from lorawright.plan.run_plan import RunPlan
from lorawright.plan.workload import Totals
from lorawright.training import train

NUM_STEPS = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """What the whole run will take, by what its first steps took.

    Attributes:
        seconds: Of all steps.
        peak_memory_bytes: Of this process; None where it cannot be measured, or others trained.
        num_steps: How many steps were measured.
    """

    seconds: float
    peak_memory_bytes: int | None
    num_steps: int


def run(config: Config, plan: RunPlan, totals: Totals) -> Probe:
    """Trains the first steps of a plan, and reckons the rest from them.

    Args:
        config: As written.
        plan: The same, settled.
        totals: Of its steps.
    """
    num_measured = min(NUM_STEPS, plan.steps.num_steps)
    with tempfile.TemporaryDirectory() as folder:
        training = {
            "output": folder + "/run",
            "max_steps": num_measured,
            "logging_steps": 1,
            "trackers": [],
        }
        short = config.model_copy(
            update={
                "data": config.data.model_copy(update={"eval": None}),
                "training": config.training.model_copy(update=training),
            }
        )
        result = train.run(short)
        lines = [line for line in result.folder.read_metrics() if "loss" in line]
    first = 1 if num_measured > 1 else 0
    measured = [plan.steps[number] for number in range(first, num_measured)]
    seconds = sum(line["seconds"] for line in lines[first:])
    work = sum(_work(plan, s.num_computed_tokens, s.num_trained_tokens) for s in measured)
    whole = _work(plan, totals.num_computed_tokens, totals.num_trained_tokens)
    peak = launch_files.peak_memory_bytes(plan.config)
    scaled = None if peak is None else _scaled(peak, plan, totals)
    return Probe(seconds * whole / work, scaled, num_measured)


def _work(plan: RunPlan, num_computed_tokens: int, num_trained_tokens: int) -> float:
    """Products of matrices, or tokens where the model's sizes are unknown."""
    shape = estimate.read_shape(plan.tokenizer_folder)
    if shape is None:
        return float(num_computed_tokens)
    return estimate.product_flops(
        shape,
        num_tokens=num_computed_tokens,
        num_trained_tokens=num_trained_tokens,
        checkpointing=plan.config.training.gradient_checkpointing is True,
    )


def _scaled(peak: int, plan: RunPlan, totals: Totals) -> int:
    """The measured peak, and activations for what the plan's largest pass has beyond theirs."""
    memory = plan.settings.memory
    first = (plan.steps[number] for number in range(min(NUM_STEPS, plan.steps.num_steps)))
    seen = max(one.num_tokens for step in first for rank in step.passes for one in rank)
    if memory is None or totals.largest_pass <= seen:
        return peak
    per_token = memory.activations / memory.tokens_per_pass
    return peak + int(per_token * (totals.largest_pass - seen))
