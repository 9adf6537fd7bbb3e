"""Events of a run → what `train` shows: what was derived, the bar, notes; all on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from lorawright.cli import console
from lorawright.cli.progress import RowCounter, StepBar
from lorawright.i18n import units
from lorawright.i18n.catalogue import translate
from lorawright.run.events import (
    ChatsPrepared,
    EvaluationProgressed,
    Event,
    MetricsLogged,
    Noted,
    RowsRead,
    RunPlanned,
    StepFinished,
    StopRequested,
    TrainingEnded,
    TrainingStarted,
)


class TrainScreen:
    """Takes the events of a run; use as a context manager.

    Args:
        quiet: Shows warnings and the answer to a signal only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._rows: RowCounter | None = RowCounter(quiet=quiet)
        self._bar: StepBar | None = None

    def __enter__(self) -> Self:
        assert self._rows is not None
        self._rows.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_rows()
        self._stop_bar()

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case StopRequested():
                self._answer_signal()
            case Noted(text, is_warning=True):
                console.warn(text)
            case RowsRead(num_rows):
                if self._rows is not None:
                    self._rows(num_rows)
            case ChatsPrepared(problems):
                self._stop_rows()
                if not self._quiet:
                    console.print_problems(problems)
            case _ if not self._quiet:
                self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case RunPlanned():
                self._show_plan(event)
            case TrainingStarted():
                self._start_bar(event)
            case StepFinished() if self._bar is not None:
                self._bar.step(event.number, event.num_tokens, event.seconds)
            case EvaluationProgressed(num_done, num_all) if self._bar is not None:
                self._bar.evaluating(num_done, num_all)
            case MetricsLogged(line) if self._bar is not None:
                self._bar.line(line)
            case Noted(text):
                self._tell(text)
            case TrainingEnded():
                self._stop_bar()

    def _show_plan(self, plan: RunPlanned) -> None:
        self._tell(_steps(plan))
        if plan.memory_bytes is not None:
            console.note(f"  memory: about {units.size(plan.memory_bytes)} at its peak")
        if plan.settings:
            settled = ", ".join(f"{name} {value}" for name, value in plan.settings.items())
            console.note(f"  {settled}")
            own = f"{plan.output}/config.yaml"
            console.note(f"  why: {own}, or `lorawright plan CONFIG`")

    def _start_bar(self, started: TrainingStarted) -> None:
        share = started.num_trainable_parameters / started.num_parameters
        console.note(
            f"adapter: {console.number(started.num_trainable_parameters)} of "
            f"{console.number(started.num_parameters)} parameters ({share:.2%})"
        )
        self._bar = StepBar(started.num_steps, started.first_step)

    def _answer_signal(self) -> None:
        """From another thread."""
        if self._bar is not None and self._bar.evaluates:
            text = translate(
                "stopping after this pass of the evaluation, then saving; Ctrl-C again stops now"
            )
            self._tell(text)
        else:
            self._tell(translate("stopping after this step, then saving; Ctrl-C again stops now"))

    def _tell(self, text: str) -> None:
        """A line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.say(text)
        else:
            console.err().print(text, markup=False)

    def _stop_rows(self) -> None:
        if self._rows is not None:
            self._rows.__exit__(None, None, None)
            self._rows = None

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _steps(plan: RunPlanned) -> str:
    """`120 steps of 8 chats, epochs: 3; about 12 min, 2 min of it evaluation`."""
    num, size, epochs = console.number(plan.num_steps), plan.batch_size, plan.epochs
    text = translate(f"{num} steps of {size} chats, epochs: {epochs}")
    if plan.seconds is None:
        return text
    whole = units.duration(plan.seconds)
    if plan.evaluation_seconds < 0.5:  # shown as 0 s
        return translate(f"{text}; about {whole}")
    evaluations = units.duration(plan.evaluation_seconds)
    return translate(f"{text}; about {whole}, {evaluations} of it evaluation")
