"""What `train` shows: what was derived, the bar, notes; all on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from lorawright.cli import console
from lorawright.cli.progress import RowCounter, StepBar
from lorawright.dataset.prepare import Prepared
from lorawright.hardware import Device
from lorawright.i18n.catalogue import translate
from lorawright.model.load import Trainable
from lorawright.plan.settings import Resolved
from lorawright.plan.steps import Plan
from lorawright.run.events import Screen, TimesOf
from lorawright.run.records import StepRecord


class TrainScreen(Screen):
    """Implements `Screen` for the terminal; use as a context manager."""

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
        self.end()

    def _stop_rows(self) -> None:
        if self._rows is not None:
            self._rows.__exit__(None, None, None)
            self._rows = None

    def rows(self, num_rows: int) -> None:
        if self._rows is not None:
            self._rows(num_rows)

    def prepared(self, prepared: Prepared) -> None:
        self._stop_rows()
        if not self._quiet:
            console.print_problems(prepared.problems)

    def planned(self, resolved: Resolved, plan: Plan, times: TimesOf) -> None:
        if self._quiet:
            return
        self._tell(_steps(resolved, plan, times))
        memory = resolved.memory
        if memory is not None:
            console.note(f"  memory: about {memory.total / 1e9:.1f} GB at its peak")
        if resolved.reasons:
            console.note(f"  {_settled(resolved)}")
            own = f"{resolved.config.training.output}/config.yaml"
            console.note(f"  why: {own}, or `lorawright plan CONFIG`")

    def begin(self, plan: Plan, trainable: Trainable, first_step: int) -> None:
        if self._quiet:
            return
        share = trainable.num_trainable / trainable.num_total
        console.note(
            f"adapter: {console.number(trainable.num_trainable)} of "
            f"{console.number(trainable.num_total)} parameters ({share:.2%})"
        )
        self._bar = StepBar(plan.num_steps, first_step)

    def step(self, number: int, record: StepRecord) -> None:
        if self._bar is not None:
            self._bar.step(number, record.num_tokens, record.seconds)

    def evaluating(self, num_done: int, num_all: int) -> None:
        if self._bar is not None:
            self._bar.evaluating(num_done, num_all)

    def stopping(self) -> None:
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

    def line(self, line: dict[str, float]) -> None:
        if self._bar is not None:
            self._bar.line(line)

    def note(self, text: str) -> None:
        if not self._quiet:
            self._tell(text)

    def warn(self, text: str) -> None:
        console.warn(text)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _settled(resolved: Resolved) -> str:
    """`optimizer adamw_torch_fused, tokens_per_pass 2048`: what `auto` has become."""
    parts = []
    for key in resolved.reasons:
        section, _, name = key.partition(".")
        parts.append(f"{name} {getattr(getattr(resolved.config, section), name)}")
    return ", ".join(parts)


def _steps(resolved: Resolved, plan: Plan, times: TimesOf) -> str:
    """`120 steps of 8 chats, epochs: 3; about 12 min, 2 min of it evaluation`."""
    num, size, epochs = (
        console.number(plan.num_steps),
        plan.batch_size,
        resolved.config.training.epochs,
    )
    text = translate(f"{num} steps of {size} chats, epochs: {epochs}")
    launched = resolved.config.distributed.num_processes != 1
    if launched and resolved.hardware.device is not Device.CPU:
        return text  # the launcher takes no memory of the GPUs that its processes need
    expected = times()
    if expected is None:
        return text
    whole = console.duration(expected.total)
    if expected.evaluations < 0.5:  # shown as 0 s
        return translate(f"{text}; about {whole}")
    evaluations = console.duration(expected.evaluations)
    return translate(f"{text}; about {whole}, {evaluations} of it evaluation")
