"""How the learning rate can fall, and what each way takes as `training.trl.lr_scheduler_kwargs`.

The names are Transformers', which reads them with the model in memory; here they are tried before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

Finding = tuple[str, str, str]

# name → (kind, lowest, highest, in words)
CYCLES = (float, 0.0, 1e6, "a number from 0 to 1,000,000")
RATE = (float, 0.0, 10.0, "a learning rate from 0 to 10")
SHARE = (float, 0.0, 1.0, "a number from 0 to 1")
NUM_STEPS = (int, 0, 100_000_000, "a whole number of steps from 0 to 100,000,000")
SHAPES = ("linear", "cosine", "1-sqrt")

TAKES: dict[str, dict[str, Any]] = {
    "cosine": {"num_cycles": CYCLES},
    "linear": {},
    "constant": {},
    "constant_with_warmup": {},
    "polynomial": {"lr_end": RATE, "power": (float, 0.0, 100.0, "a number from 0 to 100")},
    "inverse_sqrt": {"timescale": (int, 1, 100_000_000, "a whole number from 1 to 100,000,000")},
    "cosine_with_restarts": {
        "num_cycles": (int, 1, 1_000_000, "a whole number from 1 to 1,000,000")
    },
    "cosine_with_min_lr": {"num_cycles": CYCLES, "min_lr": RATE, "min_lr_rate": SHARE},
    "cosine_warmup_with_min_lr": {
        "num_cycles": CYCLES,
        "min_lr": RATE,
        "min_lr_rate": SHARE,
        "warmup_lr_rate": SHARE,
    },
    "warmup_stable_decay": {
        "num_decay_steps": NUM_STEPS,
        "num_stable_steps": NUM_STEPS,
        "warmup_type": SHAPES,
        "decay_type": SHAPES,
        "min_lr_ratio": SHARE,
        "num_cycles": CYCLES,
    },
}


def warmup(schedule: str, ratio: float, num_steps: int, given: dict[str, Any]) -> tuple[int, bool]:
    """Steps of warm-up, as Transformers counts them, and whether the first has learning rate 0.

    Args:
        schedule: `training.schedule`.
        ratio: `training.warmup_ratio`.
        num_steps: Of the whole run.
        given: `training.trl.lr_scheduler_kwargs`.
    """
    if schedule == "constant" or ratio == 0:
        return 0, False
    above = schedule == "cosine_warmup_with_min_lr" or given.get("min_lr_ratio", 0) > 0
    return math.ceil(num_steps * ratio), not above


def problems(schedule: str, given: dict[str, Any], learning_rate: float) -> Iterator[Finding]:
    """(name, what is wrong, hint) of each argument; a name of "" is all of them together.

    Args:
        schedule: `training.schedule`.
        given: `training.trl.lr_scheduler_kwargs`.
        learning_rate: The highest.
    """
    takes = TAKES[schedule]
    for name, value in given.items():
        if name not in takes:
            expected = f"expected one of: {', '.join(takes)}" if takes else "it takes none"
            yield name, f"is no argument of the schedule `{schedule}`", expected
        elif not _fits(value, takes[name]):
            yield (
                name,
                f"is `{str(value)[:60]}`, expected {_words(takes[name])}",
                "write such a one",
            )
        elif name in ("min_lr", "lr_end") and value >= learning_rate:
            yield (
                name,
                f"is {value}, not below the learning rate {learning_rate}",
                "write a rate below `training.learning_rate`",
            )
    yield from _together(schedule, given, learning_rate)


def _together(schedule: str, given: dict[str, Any], learning_rate: float) -> Iterator[Finding]:
    if schedule in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        hint = "write `training.trl: {lr_scheduler_kwargs: {min_lr_rate: 0.1}}`"
        if "min_lr" in given and "min_lr_rate" in given:
            yield "", f"has `min_lr` and `min_lr_rate`, the schedule `{schedule}` takes one", hint
        elif "min_lr" not in given and "min_lr_rate" not in given:
            what = f"has no `min_lr` or `min_lr_rate`, the schedule `{schedule}` needs one"
            yield "", what, hint
    elif schedule == "warmup_stable_decay" and "num_decay_steps" not in given:
        yield (
            "",
            "has no `num_decay_steps`, which the schedule `warmup_stable_decay` needs",
            "write `training.trl: {lr_scheduler_kwargs: {num_decay_steps: 100}}`",
        )
    elif schedule == "polynomial" and "lr_end" not in given and learning_rate <= 1e-7:
        yield (
            "",
            f"has no `lr_end`, and its 1e-7 is not below the learning rate {learning_rate}",
            "write `training.trl: {lr_scheduler_kwargs: {lr_end: 0.0}}`",
        )


def _fits(value: Any, expected: Any) -> bool:
    if expected is SHAPES:
        return value in SHAPES
    kind, lowest, highest, _ = expected
    kinds = (int, float) if kind is float else (int,)
    return type(value) in kinds and lowest <= value <= highest


def _words(expected: Any) -> str:
    return f"one of: {', '.join(SHAPES)}" if expected is SHAPES else str(expected[3])
