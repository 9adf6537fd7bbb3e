"""Processes that have imported torch already: forked from one that did it once a test process.

A command in a Python of its own imports for three to eight seconds before it does anything; here it
starts at once. `Forked` is used as `subprocess.Popen` is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Self

PRELOADED = [
    "lorawright.cli.app",
    "lorawright.exporters.merge",
    "lorawright.evaluation.run",
    "lorawright.exporters.ollama",
    "lorawright.training.train",
    "transformers.models.qwen2.modeling_qwen2",
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)


def _run(code: str, arguments: Sequence[str], cwd: str, environment: dict[str, str], out: Any,
         err: Any) -> None:  # fmt: skip
    """In the forked process: its streams, folder and environment, then the code."""
    os.dup2(out.detach(), 1)
    os.dup2(err.detach(), 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    status = 0
    try:
        exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # a forked process has no caller: told as Python does, then an exit code
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Forked:
    """Runs Python code in a forked process; both streams are pipes of text."""

    def __init__(self, code: str, arguments: Sequence[str], cwd: Path) -> None:
        (self._out, out), (self._err, err) = os.pipe(), os.pipe()
        environment = dict(os.environ)
        given = (code, arguments, str(cwd), environment, DupFd(out), DupFd(err))
        self._process = SERVER.Process(target=_run, args=given)
        self._process.start()
        os.close(out)
        os.close(err)
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdout = open(self._out, encoding="utf-8")  # noqa: SIM115
        self.stderr = open(self._err, encoding="utf-8")  # noqa: SIM115

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """All that it writes, until it has ended."""
        with ThreadPoolExecutor(2) as readers:
            out, err = readers.submit(self.stdout.read), readers.submit(self.stderr.read)
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            return out.result(), err.result()

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.join()
        self.stdout.close()
        self.stderr.close()
