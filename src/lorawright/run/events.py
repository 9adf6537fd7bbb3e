"""What a run tells while it goes on, here or from another process.

rank 0: Relay(folder) ──events.jsonl──► launcher: replay(event, screen, plan)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorawright.dataset.prepare import Prepared
from lorawright.model.load import Trainable
from lorawright.plan.estimate import Times
from lorawright.plan.settings import Resolved
from lorawright.plan.steps import Plan
from lorawright.run import event_file
from lorawright.run.records import StepRecord

TimesOf = Callable[[], Times | None]  # called where it is shown: it measures for 0.2 s
SECONDS_BETWEEN_EVENTS = 0.2  # of an evaluation; its passes may be short


class Screen:
    """Told of everything; the terminal overrides it, a library call stays silent.

    `stopping` comes from another thread, as soon as a signal has: steps may take minutes.
    """

    def rows(self, num_rows: int) -> None: ...
    def prepared(self, prepared: Prepared) -> None: ...
    def planned(self, resolved: Resolved, plan: Plan, times: TimesOf) -> None: ...
    def begin(self, plan: Plan, trainable: Trainable, first_step: int) -> None: ...
    def step(self, number: int, record: StepRecord) -> None: ...
    def evaluating(self, num_done: int, num_all: int) -> None: ...
    def line(self, line: dict[str, float]) -> None: ...
    def stopping(self) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def end(self) -> None: ...


class Relay(Screen):
    """Sends what rank 0 has to show to the launcher."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last_evaluating = 0.0

    def begin(self, plan: Plan, trainable: Trainable, first_step: int) -> None:
        facts = asdict(trainable)
        event_file.send(self._folder, "begin", trainable=facts, first_step=first_step)

    def step(self, number: int, record: StepRecord) -> None:
        event_file.send(self._folder, "step", number=number, record=asdict(record))

    def evaluating(self, num_done: int, num_all: int) -> None:
        now = time.monotonic()
        if num_done == num_all or now - self._last_evaluating > SECONDS_BETWEEN_EVENTS:
            self._last_evaluating = now
            event_file.send(self._folder, "evaluating", num_done=num_done, num_all=num_all)

    def line(self, line: dict[str, float]) -> None:
        event_file.send(self._folder, "line", line=line)

    def note(self, text: str) -> None:
        event_file.send(self._folder, "note", text=text)

    def end(self) -> None:
        event_file.send(self._folder, "end")


def replay(event: dict[str, Any], screen: Screen, plan: Plan) -> None:
    """Shows what a `Relay` has sent."""
    match event["event"]:
        case "begin":
            screen.begin(plan, Trainable(**event["trainable"]), event["first_step"])
        case "step":
            screen.step(event["number"], StepRecord(**event["record"]))
        case "evaluating":
            screen.evaluating(event["num_done"], event["num_all"])
        case "line":
            screen.line(event["line"])
        case "note":
            screen.note(event["text"])
        case "end":
            screen.end()
