"""What a run tells while it goes on: one frozen dataclass an event, numbers and texts only.

    data ─► RowsRead* ChatsPrepared ─► RunPlanned ─► TrainingStarted
        ─► (StepFinished | MetricsLogged | EvaluationProgressed | Noted)* ─► TrainingEnded

Whoever starts a run hands it a function that takes events: a terminal, a file, a test, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lorawright.types import Problem


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Rows of the data so far."""

    num_rows: int


@dataclass(frozen=True, slots=True)
class ChatsPrepared:
    """All chats are encoded.

    Attributes:
        problems: What was found in them; none of them is an error.
    """

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class RunPlanned:
    """Everything is decided; no model is loaded yet.

    Attributes:
        num_steps: Optimizer steps of the whole run.
        batch_size: Chats of a step.
        epochs: As in the config.
        settings: Names of settings that were `auto`, without their section, and their values.
        output: The run folder.
        memory_bytes: Estimated peak of a process; None where the model's sizes are unknown.
        seconds: Estimated time, evaluations included; None where it is not known.
        evaluation_seconds: Of these, all evaluations.
    """

    num_steps: int
    batch_size: int
    epochs: int
    settings: dict[str, str]
    output: str
    memory_bytes: int | None
    seconds: float | None
    evaluation_seconds: float


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """The model is loaded; `first_step` steps of an earlier sitting are done."""

    num_steps: int
    first_step: int
    num_trainable_parameters: int
    num_parameters: int


@dataclass(frozen=True, slots=True)
class StepFinished:
    """One optimizer step, counted from 1; tokens are those of all its chats."""

    number: int
    num_tokens: int
    num_trained_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationProgressed:
    """Chats of an evaluation that goes on."""

    num_done: int
    num_all: int


@dataclass(frozen=True, slots=True)
class MetricsLogged:
    """A line of metrics.jsonl: of some steps, or of an evaluation."""

    line: dict[str, float]


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A signal has asked to stop; told from another thread, as soon as it has come."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A sentence for the user."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class TrainingEnded:
    """No more steps: all are done, or the run was stopped."""


Event = (
    RowsRead
    | ChatsPrepared
    | RunPlanned
    | TrainingStarted
    | StepFinished
    | EvaluationProgressed
    | MetricsLogged
    | StopRequested
    | Noted
    | TrainingEnded
)
Tell = Callable[[Event], None]
SENT = (TrainingStarted, StepFinished, EvaluationProgressed, MetricsLogged, Noted, TrainingEnded)
"""Events of a training process, which another process may have to show."""


def silent(event: Event) -> None:
    """Tells nobody."""


def dump(event: Event) -> dict[str, Any]:
    """An event as JSON values, for another process; `parse` reads it."""
    return {"event": type(event).__name__, **asdict(event)}


def parse(found: dict[str, Any]) -> Event:
    """The event that `dump` has written.

    Args:
        found: One of `SENT`, as JSON values.
    """
    kinds = {kind.__name__: kind for kind in SENT}
    return kinds[found.pop("event")](**found)
