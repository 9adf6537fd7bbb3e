"""Starts ranks by fork from a process that has imported everything: a second instead of ten.

One JSON line in: {"job": path, "num_ranks": 2, "first_rank": 0, "world_size": 2, "port": 29500};
one JSON line out: the ranks' exit codes. The environment is torchrun's; what accelerate adds to it,
the ranks take from the job.

With {"victim": 1, "signal": 9, "metrics": path, "lines": 2} that rank gets the signal when the run
has written so many lines of metrics.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

from lorawright.cli.quiet import quiet

quiet()

import accelerate  # noqa: E402, F401
import deepspeed  # noqa: E402, F401

from lorawright import train  # noqa: E402, F401
from lorawright.cli import rank  # noqa: E402


def answer(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fork(request: dict[str, int | str], local_rank: int) -> int:
    """A rank; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {
            "RANK": str(int(request["first_rank"]) + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(request["world_size"]),
            "LOCAL_WORLD_SIZE": str(request["num_ranks"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(request["port"]),
        }
        os.dup2(2, 1)
        code = rank.main(str(request["job"]))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def strike(request: dict[str, int | str], pids: list[int]) -> None:
    """Waits for the moment, and signals the victim; ranks that fail before end the wait."""
    metrics = Path(str(request["metrics"]))
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < int(request["lines"]):
        time.sleep(0.002)
        if os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
    os.kill(pids[int(request["victim"])], int(request["signal"]))


answer("ready")
for line in sys.stdin:
    request = json.loads(line)
    pids = [fork(request, local_rank) for local_rank in range(request["num_ranks"])]
    if "victim" in request:
        strike(request, pids)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    answer(json.dumps(codes))
