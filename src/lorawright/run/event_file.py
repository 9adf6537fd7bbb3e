"""What rank 0 has to show → lines of JSON in a local file → the launcher's terminal.

    send(folder, "note", text="resumed")          in rank 0
    for event in Events(folder): show(event)      in the launcher, again and again

A file, because it outlives a process that is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

EVENTS = "events.jsonl"


def send(folder: Path, event: str, **content: Any) -> None:
    """Something to show; called by rank 0."""
    with open(folder / EVENTS, "ab") as file:
        file.write(orjson.dumps({"event": event, **content}) + b"\n")


class Events:
    """Reads what rank 0 has sent, each event once, up to the last whole line.

    Args:
        folder: The one that rank 0 sends to.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._path.touch()
        self._offset = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield orjson.loads(line)
