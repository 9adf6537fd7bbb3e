"""A rank's error → a file → the same error in the launcher, of its own class.

    record(train, error_handler=ErrorFile(rank))    in the rank: torch's decorator calls us
    read(path)                                      in the launcher

The file is torch's (`TORCHELASTIC_ERROR_FILE`, torch.distributed.elastic.multiprocessing.errors),
so that torchrun shows the message as well; ours is what it says besides.
"""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from lorawright.errors import LorawrightError, TrainError

VARIABLE = "TORCHELASTIC_ERROR_FILE"
KEY = "lorawright"
LOST = (  # how gloo, NCCL and torch's store say that another process is gone
    "gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "Timed out waiting", "TCPStore",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """Why a rank failed.

    Attributes:
        kind: Name of the error's class.
        what: As in `LorawrightError`.
        where: The same.
        hint: The same.
        time: By the machine's monotonic clock.
        lost: The error is that other processes have gone: a consequence, not a cause.
    """

    kind: str
    what: str
    where: str | None
    hint: str | None
    time: float
    lost: bool = False

    def error(self) -> LorawrightError:
        """The error again."""
        kinds = {kind.__name__: kind for kind in _kinds(LorawrightError)}
        return kinds.get(self.kind, TrainError)(self.what, where=self.where, hint=self.hint)


class ErrorFile(ErrorHandler):
    """Writes a rank's error into the file that its launcher has named.

    Args:
        rank: Over all machines.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def record_exception(self, e: BaseException) -> None:
        """Called by torch's `record`, which raises the error again."""
        path = os.environ.get(VARIABLE)
        if path is None:
            return
        stack = {"py_callstack": traceback.format_exc(), "timestamp": str(int(time.time()))}
        message = {"message": f"{type(e).__name__}: {e}", "extraInfo": stack}
        content = {"message": message, KEY: asdict(describe(self._rank, e))}
        Path(path).write_bytes(orjson.dumps(content))


def describe(rank: int, error: BaseException) -> ExitRecord:
    """An error as it is written down; one of a library gets its first line and the rank."""
    now = time.monotonic()
    if isinstance(error, LorawrightError):
        return ExitRecord(type(error).__name__, error.what, error.where, error.hint, now)
    line = str(error).strip().split("\n")[0][:300]
    lost = any(word in str(error) for word in LOST)
    what = f"the other processes are gone: {line}" if lost else f"{type(error).__name__}: {line}"
    return ExitRecord("TrainError", what, f"rank {rank}", None, now, lost)


def read(path: Path) -> ExitRecord | None:
    """What a rank has written; None: nothing, or another program's error file."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError):  # absent, or cut short by a kill
        return None
    return ExitRecord(**found[KEY]) if KEY in found else None


def _kinds(kind: type[LorawrightError]) -> list[type[LorawrightError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]
