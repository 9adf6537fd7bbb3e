"""What a run tells while it goes on, here or from another process.

rank 0: Relay(folder) ──events.jsonl──► launcher: replay(event, screen, plan)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorawright import control
from lorawright.model import Trainable
from lorawright.plan import Plan
from lorawright.prepare import Prepared
from lorawright.resolve import Resolved
from lorawright.trainer import StepRecord


class Screen:
    """Told of everything; the terminal overrides it, a library call stays silent."""

    def rows(self, num_rows: int) -> None: ...
    def prepared(self, prepared: Prepared) -> None: ...
    def planned(self, resolved: Resolved, plan: Plan) -> None: ...
    def begin(self, plan: Plan, trainable: Trainable, first_step: int) -> None: ...
    def step(self, number: int, record: StepRecord) -> None: ...
    def line(self, line: dict[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def end(self) -> None: ...


class Relay(Screen):
    """Sends what rank 0 has to show to the launcher."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, plan: Plan, trainable: Trainable, first_step: int) -> None:
        facts = asdict(trainable)
        control.send(self._folder, "begin", trainable=facts, first_step=first_step)

    def step(self, number: int, record: StepRecord) -> None:
        control.send(self._folder, "step", number=number, record=asdict(record))

    def line(self, line: dict[str, float]) -> None:
        control.send(self._folder, "line", line=line)

    def note(self, text: str) -> None:
        control.send(self._folder, "note", text=text)

    def end(self) -> None:
        control.send(self._folder, "end")


def replay(event: dict[str, Any], screen: Screen, plan: Plan) -> None:
    """Shows what a `Relay` has sent."""
    match event["event"]:
        case "begin":
            screen.begin(plan, Trainable(**event["trainable"]), event["first_step"])
        case "step":
            screen.step(event["number"], StepRecord(**event["record"]))
        case "line":
            screen.line(event["line"])
        case "note":
            screen.note(event["text"])
        case "end":
            screen.end()
