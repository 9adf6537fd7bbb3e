"""What a terminal shows while training: a real pty, narrow and wide, and plain output."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from io import StringIO
from pathlib import Path

import pytest
from helpers import rows, write_jsonl
from rich.console import Console
from rich.progress import Progress

from lorawright.cli import progress
from lorawright.cli.progress import RowCounter, StepBar

SECONDS_TO_ANSWER = 3.0  # hundredths of one on an idle machine; others may hold all cores
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def write_project(folder: Path) -> None:
    write_jsonl(folder / "train.jsonl", rows(40))
    write_jsonl(folder / "eval.jsonl", rows(48)[40:])
    (folder / "c.yaml").write_text(
        "model: {name: tiny, dtype: float32}\n"
        "data: {train: train.jsonl, eval: eval.jsonl}\n"
        "training: {output: run, epochs: 400, save_steps: 1000, trackers: []}\n"
    )


def in_a_terminal(folder: Path, columns: int, wait_for: bytes) -> tuple[str, float, int]:
    """Trains, presses Ctrl-C once something is shown: text, seconds to the answer, exit code."""
    code = "from lorawright.cli import run; import sys; sys.exit(run(['train', 'c.yaml']))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)  # the size is the terminal's, set below
        os.execv(sys.executable, [sys.executable, "-c", code])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    seen, pressed, answered = b"", None, None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.05)
        if ready:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break  # Linux: the other side is closed
        if pressed is None and wait_for in seen:
            pressed = time.monotonic()
            os.write(terminal, b"\x03")
        if pressed is not None and answered is None and b"stopping after this" in seen:
            answered = time.monotonic() - pressed
    exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert answered is not None, seen[-2000:]
    return ESCAPES.sub("", seen.decode()), answered, exit_code


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty on Windows")
def test_ctrl_c_is_answered_at_once(tmp_path: Path) -> None:
    """Above the bar, before the step ends."""
    write_project(tmp_path)
    text, seconds, code = in_a_terminal(tmp_path, 60, b" left ")
    assert seconds < SECONDS_TO_ANSWER and code == 130
    assert "saved; go on with: lorawright train c.yaml --resume" in text.replace("\r\n", "")
    first = next(line for line in re.split(r"[\r\n]+", text) if " steps of " in line)
    assert "2,000 steps of 8 chats, epochs: 400; about" in first
    assert text.index(first) < text.index("optimizer adamw"), "what matters comes first"
    assert "(paged 8-bit" not in text and "why: " in text, "reasons are in the run's config"


def test_a_narrow_terminal_shows_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 columns only the bar gives way."""
    monkeypatch.setenv("COLUMNS", "60")
    shown = Console(width=60, file=StringIO(), force_terminal=True)
    bar = Progress(*progress._columns(), console=shown)
    fields = {"loss": "loss 2.1177", "speed": "12,345 tokens/s", "left": "left 1 h 05 min"}
    bar.add_task("step", total=12_000, completed=4_000, **fields)
    with shown.capture() as captured:
        shown.print(bar.get_renderable())
    (line,) = ESCAPES.sub("", captured.get()).splitlines()
    assert len(line.rstrip()) <= 60
    assert "4000/12000" in line and "loss 2.1177" in line and "left 1 h 05 min" in line


def test_no_rows_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of a few rows is read before its first count."""
    monkeypatch.setenv("LORAWRIGHT_LANG", "en")
    shown = Console(width=60, file=StringIO(), force_terminal=True)
    counter = RowCounter(quiet=True)
    texts = []
    for num_rows in (None, 1234):
        if num_rows is not None:
            counter(num_rows)
        with shown.capture() as captured:
            shown.print(counter._progress.get_renderable())
        texts.append(ESCAPES.sub("", captured.get()))
    assert "rows" not in texts[0] and "1,234 rows" in texts[1]


def test_plain_output_counts_evaluations_and_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    bar = StepBar(10, 0)
    bar.evaluating(31, 80)
    bar.line({"step": 0, "eval_loss": 2.0, "eval_token_accuracy": 0.5})
    bar.step(1, num_tokens=100, seconds=20.0)
    bar.line({"step": 1, "loss": 1.5, "tokens_per_second": 3.3})
    bar.stop()
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "evaluating 31/80",
        "step 0: eval loss 2.0000, token accuracy 50.0%",
        "step 1/10: loss 1.5000, 3 tokens/s, 20.0 s a step, left 3 min",
    ]
