"""Progress on stderr: a counter while rows are read, a bar with loss and speed while training."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from lorawright.cli import console
from lorawright.i18n import units
from lorawright.i18n.catalogue import translate

SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal to redraw
NARROW_COLUMNS = 80  # below, speed and time so far are left out


class _Shown:
    """Its bar is there inside `with`."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class RowCounter(_Shown):
    """Counts rows while data are read and encoded."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[rows]}", markup=False),
            TimeElapsedColumn(),
            console=console.err(),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(translate("reading and encoding"), total=None, rows="")

    def __call__(self, num_rows: int) -> None:
        self._progress.update(self._task, rows=translate(f"{console.number(num_rows)} rows"))


class StepBar:
    """Steps of a run with loss, speed and time left; plain lines where there is no terminal."""

    def __init__(self, num_steps: int, first_step: int) -> None:
        self._num_steps, self._first_step = num_steps, first_step
        self._step = first_step
        self._loss = ""
        self._speed = ""
        self._tokens_per_second = 0.0
        self._started: float | None = None
        self._last_line = time.monotonic()
        self._evaluation: TaskID | None = None
        self._terminal = sys.stderr.isatty()
        self._progress = Progress(
            *_columns(), console=console.err(), disable=not self._terminal, expand=False
        )
        self._task = self._progress.add_task(
            "step", total=num_steps, completed=first_step, loss="", speed="", left=""
        )
        self._progress.start()

    def step(self, number: int, num_tokens: int, seconds: float) -> None:
        if self._started is None:
            self._started = time.monotonic() - seconds
        now = num_tokens / seconds
        before = self._tokens_per_second or now
        self._tokens_per_second = 0.8 * before + 0.2 * now
        self._step = number
        self._speed = f"{console.number(self._tokens_per_second)} tokens/s"
        self._show()

    def evaluating(self, num_done: int, num_all: int) -> None:
        """A second bar while an evaluation goes on."""
        if self._evaluation is None:
            self._evaluation = self._progress.add_task(
                "evaluating", total=num_all, loss="", speed="", left=""
            )
        self._progress.update(self._evaluation, completed=num_done)
        if self._due():
            console.err().print(f"evaluating {num_done}/{num_all}", markup=False)

    def line(self, line: dict[str, float]) -> None:
        """A line of metrics: training losses into the bar, evaluations above it."""
        if "eval_loss" in line:
            self._end_evaluation()
            self.say(
                f"step {line['step']:.0f}: eval loss {line['eval_loss']:.4f}, token accuracy "
                f"{line['eval_token_accuracy']:.1%}"
            )
            return
        self._loss = translate(f"loss {line['loss']:.4f}")
        self._show()
        if self._due(last=line["step"] == self._num_steps):
            console.err().print(
                f"step {line['step']:.0f}/{self._num_steps}: {self._loss}, "
                f"{console.number(line['tokens_per_second'])} tokens/s, "
                f"{self._seconds_a_step():.1f} s a step, left {units.duration(self._left())}",
                markup=False,
            )

    def say(self, text: str) -> None:
        """A line above the bar; also from another thread."""
        self._progress.console.print(text, markup=False)

    def stop(self) -> None:
        self._end_evaluation()
        self._progress.stop()

    @property
    def evaluates(self) -> bool:
        return self._evaluation is not None

    def _end_evaluation(self) -> None:
        if self._evaluation is not None:
            self._progress.remove_task(self._evaluation)
            self._evaluation = None

    def _show(self) -> None:
        left = f"left {units.duration(self._left())}" if self._started is not None else ""
        self._progress.update(
            self._task, completed=self._step, loss=self._loss, speed=self._speed, left=left
        )

    def _due(self, *, last: bool = False) -> bool:
        """Whether a plain line is to be printed now."""
        now = time.monotonic()
        if self._terminal or not (last or now - self._last_line > SECONDS_BETWEEN_LINES):
            return False
        self._last_line = now
        return True

    def _seconds_a_step(self) -> float:
        """Of this sitting, its evaluations and checkpoints included."""
        if self._started is None:
            return 0.0
        return (time.monotonic() - self._started) / max(1, self._step - self._first_step)

    def _left(self) -> float:
        return self._seconds_a_step() * (self._num_steps - self._step)


def _columns() -> list[ProgressColumn]:
    """What a narrow terminal has no room for is left out; only the bar gives way."""
    whole = Column(no_wrap=True)
    narrow = console.err().width < NARROW_COLUMNS
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        BarColumn(bar_width=12 if narrow else 30),
        TextColumn("{task.fields[loss]}", markup=False, table_column=whole),
    ]
    if not narrow:
        columns.append(TextColumn("{task.fields[speed]}", markup=False, table_column=whole))
        columns.append(TimeElapsedColumn(table_column=whole))
    columns.append(TextColumn("{task.fields[left]}", markup=False, table_column=whole))
    return columns


class TaskBar(_Shown):
    """One bar after another; plain lines, not too many, where there is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._lines = not quiet and not sys.stderr.isatty()
        self._num_done: Counter[str] = Counter()
        self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn(translate("left")),
            TimeRemainingColumn(),
            console=console.err(),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, num_done: int, num_all: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(translate(what), total=num_all)
        self._progress.advance(self._tasks[what], num_done)
        self._num_done[what] += num_done
        if self._lines and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            console.err().print(f"{translate(what)} {self._num_done[what]}/{num_all}", markup=False)
