"""Starts ranks by fork from a process that has imported everything: a second instead of ten.

One JSON line in, a job for each rank: {"jobs": [path, path], "port": 29500}; one JSON line out: the
ranks' exit codes. The environment is torchrun's; what accelerate adds to it, the ranks take from
the job. With {"jobs": [null], "config": {…}, "start": "new"} a run in one process.

With {"victim": 1, "signal": 9, "metrics": path, "lines": 2} that rank gets the signal when the run
has written so many lines of metrics; with {"after_seconds": 0.5} so long after.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from lorawright.distributed.signals import quiet

quiet()

import accelerate  # noqa: E402, F401
import deepspeed  # noqa: E402, F401

from lorawright.config import Config  # noqa: E402
from lorawright.distributed.ranks import GRACE_SECONDS  # noqa: E402
from lorawright.training import train, worker  # noqa: E402


def answer(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fork(request: dict[str, Any], number: int) -> int:
    """A rank; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    os.nice(5)  # who strikes must not wait for a core until they have ended
    try:
        os.dup2(2, 1)
        if "config" in request:
            config = Config.model_validate(request["config"])
            train.run(config, start=train.Start(request["start"]))
            code = 0
        else:
            os.environ |= {
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(len(request["jobs"])),
                "LOCAL_WORLD_SIZE": str(len(request["jobs"])),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(request["port"]),
            }
            code = worker.main(request["jobs"][number])
    except BaseException:  # a forked child has no caller: told, then an exit code
        traceback.print_exc()
    finally:
        os._exit(code)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def strike(request: dict[str, Any], pids: list[int]) -> None:
    """Waits for the moment, and signals the victim; ranks that fail before end the wait."""
    metrics = Path(request["metrics"])
    while num_lines(metrics) < request["lines"]:
        time.sleep(0.002)
        if has_ended(pids[0]):
            return
    time.sleep(request.get("after_seconds", 0))
    os.kill(pids[request["victim"]], request["signal"])
    if request["signal"] == signal.SIGKILL:
        end_all(pids)


def end_all(pids: list[int]) -> None:
    """What the launcher does: those that wait for the dead one are ended after a while."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and not all(map(has_ended, pids)):
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


answer("ready")
for line in sys.stdin:
    request = json.loads(line)
    pids = [fork(request, number) for number in range(len(request["jobs"]))]
    if "victim" in request:
        strike(request, pids)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    answer(json.dumps(codes))
