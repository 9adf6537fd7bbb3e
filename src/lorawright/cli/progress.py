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
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lorawright.cli import console
from lorawright.i18n import translate

SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal to redraw


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
            TextColumn(translate("{task.completed:,.0f} rows")),
            TimeElapsedColumn(),
            console=console.err(),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(translate("reading and encoding"), total=None)

    def __call__(self, num_rows: int) -> None:
        self._progress.update(self._task, completed=num_rows)


class StepBar:
    """Steps of a run with loss, speed and time left; plain lines where there is no terminal."""

    def __init__(self, num_steps: int, first_step: int) -> None:
        self._num_steps = num_steps
        self._loss = "–"
        self._tokens_per_second = 0.0
        self._last_line = 0.0
        self._terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn(translate("step")),
            MofNCompleteColumn(),
            BarColumn(bar_width=30),
            TextColumn(translate("loss {task.fields[loss]}"), markup=False),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeElapsedColumn(),
            TextColumn(translate("left")),
            TimeRemainingColumn(),
            console=console.err(),
            disable=not self._terminal,
        )
        self._task = self._progress.add_task(
            "step", total=num_steps, completed=first_step, loss="–", speed=""
        )
        self._progress.start()

    def step(self, number: int, num_tokens: int, seconds: float) -> None:
        now = num_tokens / seconds
        before = self._tokens_per_second or now
        self._tokens_per_second = 0.8 * before + 0.2 * now
        self._progress.update(
            self._task,
            completed=number,
            loss=self._loss,
            speed=f"{console.number(self._tokens_per_second)} tokens/s",
        )

    def line(self, line: dict[str, float]) -> None:
        """A line of metrics: training losses into the bar, evaluations above it."""
        if "eval_loss" in line:
            self._progress.console.print(
                f"step {line['step']:.0f}: eval loss {line['eval_loss']:.4f}, token accuracy "
                f"{line['eval_token_accuracy']:.1%}"
            )
            return
        self._loss = f"{line['loss']:.4f}"
        self._progress.update(self._task, loss=self._loss)
        last = line["step"] == self._num_steps
        due = time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        if not self._terminal and (due or last):
            self._last_line = time.monotonic()
            console.err().print(
                f"step {line['step']:.0f}/{self._num_steps}: loss {self._loss}, "
                f"{console.number(line['tokens_per_second'])} tokens/s"
            )

    def stop(self) -> None:
        self._progress.stop()


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
