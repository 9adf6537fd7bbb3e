"""Ctrl-C is answered while a step runs, and the second one ends at once."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorawright.distributed.signals import stop_on_signals

# The main thread is in one C call for long, as it is in a step; Python's handlers do not run.
BUSY = """
import hashlib, os, sys
from lorawright.distributed import signals
signals.SECONDS_TO_LEAVE = 0.5
def tell(): os.write(1, b"stopping\\n")
with signals.stop_on_signals(tell=tell) as stop:
    os.write(1, b"ready\\n")
    hashlib.pbkdf2_hmac("sha512", b"", b"", int(sys.argv[1]))
    os.write(1, b"through\\n" if stop() else b"not asked\\n")
"""


SECONDS_TO_ANSWER = 3.0  # hundredths of one on an idle machine; others may hold all cores


def start(num_rounds: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(num_rounds)], stdout=subprocess.PIPE
    )
    assert line(process, 30) == b"ready\n"
    return process


def line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return os.read(process.stdout.fileno(), 100) if ready else b""


def test_the_first_signal_is_answered_while_a_step_runs() -> None:
    with start(3_000_000) as process:
        process.send_signal(signal.SIGINT)
        assert line(process, SECONDS_TO_ANSWER) == b"stopping\n"
        assert line(process, 60) == b"through\n", "the step goes on to its end"
    assert process.returncode == 0


def test_the_second_signal_ends_a_step_that_does_not_come_back() -> None:
    with start(10**9) as process:
        process.send_signal(signal.SIGINT)
        assert line(process, SECONDS_TO_ANSWER) == b"stopping\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_the_second_signal_is_an_interrupt_where_python_runs() -> None:
    told: list[float] = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals(tell=lambda: told.append(1)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert told == [1]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Handlers, the wake-up pipe and the thread are as before."""
    before = (signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd")))
    with stop_on_signals():
        pass
    assert (signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd"))) == before
    assert signal.set_wakeup_fd(-1) == -1
