"""What a trainer tells while it works: a record a step, and whom it tells.

The trainer calls a `Watcher`; the run folder and the terminal stand behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What happened in one optimizer step."""

    num_tokens: int
    num_trained_tokens: int
    num_hits: int
    entropy_sum: float | None
    seconds: float


@dataclass
class Watcher:
    """Where a trainer reports to; the run folder and the terminal implement it."""

    on_log: Callable[[dict[str, float]], None] = lambda line: None
    on_step: Callable[[int, StepRecord], None] = lambda number, record: None
    on_saved: Callable[[Path], None] = lambda folder: None
    on_evaluating: Callable[[int, int], None] = lambda num_done, num_all: None
    should_stop: Callable[[], bool] = lambda: False


def summary(
    records: Sequence[StepRecord], over_ranks: Callable[[float], float]
) -> dict[str, float]:
    """What some steps amount to, for a line of metrics; `over_ranks` adds up all processes."""
    seconds = sum(record.seconds for record in records)
    num_tokens = sum(record.num_tokens for record in records)
    num_trained = sum(record.num_trained_tokens for record in records)
    num_hits = sum(record.num_hits for record in records)
    entropies = [record.entropy_sum for record in records if record.entropy_sum is not None]
    return {
        **({"entropy": over_ranks(sum(entropies)) / num_trained} if entropies else {}),
        "tokens": num_tokens,
        "trained_tokens": num_trained,
        "token_accuracy": over_ranks(num_hits) / num_trained,
        "tokens_per_second": num_tokens / seconds,
        "seconds": seconds,
    }
