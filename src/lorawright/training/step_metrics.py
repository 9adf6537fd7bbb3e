"""Records of optimizer steps → one line of metrics over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What happened in one optimizer step.

    Attributes:
        num_tokens: Of all its chats, on all ranks; shared prefixes as often as they occur.
        num_trained_tokens: Of these, the trained ones.
        num_hits: Trained tokens of this rank that the model ranked first.
        entropy_sum: Of this rank's trained positions, in nats; None where it is not logged.
        seconds: From the first forward pass to the end of the last backward pass.
    """

    num_tokens: int
    num_trained_tokens: int
    num_hits: int
    entropy_sum: float | None
    seconds: float


def summary(
    records: Sequence[StepRecord], over_ranks: Callable[[float], float]
) -> dict[str, float]:
    """What some steps amount to.

    Args:
        records: This rank's, one a step since the last line.
        over_ranks: Adds a value up over all processes.
    """
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
