"""What rank 0 has to show → lines of JSON in a local file → the launcher's terminal.

    tell = sender(folder); tell(Noted("resumed"))   in rank 0
    for event in Events(folder): tell(event)        in the launcher, again and again

A file, because it outlives a process that is killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import orjson

from lorawright.run.events import SENT, EvaluationProgressed, Event, Tell, dump, parse

EVENTS = "events.jsonl"
SECONDS_BETWEEN_EVENTS = 0.2  # of an evaluation; its passes may be short


def sender(folder: Path) -> Tell:
    """What rank 0 tells its events to; of an evaluation not each of its passes is sent.

    Args:
        folder: Local to the machine, shared with the launcher.
    """
    last_sent = 0.0

    def send(event: Event) -> None:
        nonlocal last_sent
        if isinstance(event, EvaluationProgressed) and event.num_done < event.num_all:
            if time.monotonic() - last_sent <= SECONDS_BETWEEN_EVENTS:
                return
            last_sent = time.monotonic()
        if isinstance(event, SENT):
            with open(folder / EVENTS, "ab") as file:
                file.write(orjson.dumps(dump(event)) + b"\n")

    return send


class Events:
    """Reads what rank 0 has sent, each event once, up to the last whole line.

    Args:
        folder: The one that rank 0 sends to.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._path.touch()
        self._offset = 0

    def __iter__(self) -> Iterator[Event]:
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield parse(orjson.loads(line))
