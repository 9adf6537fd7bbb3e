"""Heartbeats → the ranks that stand still, and the error that names them.

Those without a sign of life are blamed first (stopped, or stuck inside a library); else those that
are behind the others, who wait for them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorawright.distributed.heartbeat import Beat
from lorawright.errors import TrainError

SILENT_SECONDS = 15.0  # without a sign of life: stopped, or stuck inside a library
ASLEEP_SECONDS = 5.0  # between two looks of ours: we were stopped, and so may the processes be


@dataclass
class Watch:
    """Since when we have been looking without a break.

    A group of processes that is stopped and goes on (SIGSTOP and SIGCONT, a debugger, a frozen
    container) has had no time to move: nobody is blamed for what was before.
    """

    awake_since: float = field(default_factory=time.monotonic)
    last_look: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """To be called all the time."""
        now = time.monotonic()
        if now - self.last_look > ASLEEP_SECONDS:
            self.awake_since = now
        self.last_look = now

    def standing_still(self, beats: list[Beat], timeout_seconds: float) -> list[Beat]:
        """As the function of this name, for the time that we have been looking."""
        since = self.awake_since
        seen = [
            replace(
                beat,
                progress_time=max(beat.progress_time, since),
                alive_time=max(beat.alive_time, since),
            )
            for beat in beats
        ]
        return standing_still(seen, timeout_seconds, time.monotonic())


def standing_still(beats: list[Beat], timeout_seconds: float, now: float) -> list[Beat]:
    """The processes to blame when nothing has moved for so long; empty while something moves.

    Those without a sign of life first; else those that are behind the others, who wait for them.
    """
    if not beats or now - max(beat.progress_time for beat in beats) <= timeout_seconds:
        return []
    silent = [beat for beat in beats if now - beat.alive_time > SILENT_SECONDS]
    if silent:
        return silent
    least = min(beat.count for beat in beats)
    return [beat for beat in beats if beat.count == least]


def standing_still_error(
    still: list[Beat],
    running: list[Beat],
    timeout_seconds: float,
    log: Path,
    *,
    several_machines: bool,
) -> TrainError:
    """What is said of ranks that stand still.

    Args:
        still: Those to blame.
        running: All that have not ended.
        timeout_seconds: How long nothing has moved.
        log: Where their stacks are.
        several_machines: Whether they may wait for one that is not seen from here.
    """
    names = ", ".join(str(beat.rank) for beat in still)
    seconds = f"{timeout_seconds:.0f} s"
    if len(still) == len(running):
        elsewhere = ", or wait for another machine" if several_machines else ""
        what = f"no process has made progress for {seconds}; all stand at: {still[0].doing}"
        what += elsewhere
    else:
        what = f"process {names} has not moved for {seconds}, while {still[0].doing}"
    return TrainError(
        what,
        where=f"rank {names}",
        hint=f"the stacks are in {log}; go on with `--resume`; a slow step needs a "
        "higher `distributed.timeout_seconds`",
    )
