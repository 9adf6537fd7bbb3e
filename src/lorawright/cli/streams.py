"""What a terminal may hand us: streams that are closed, left by their reader or without the letters
needed, and a current folder that is gone."""

from __future__ import annotations

import io
import os
import sys

from lorawright.errors import LorawrightError

READER_GONE = 1  # exit code: what the whole output would have said is not known


def prepare() -> None:
    """Letters that an encoding lacks are shown as escapes; a closed stream takes everything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`
            # it is the stream from here on, and open as long as the process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush(code: int) -> int:
    """Writes what is left; the exit code, or `READER_GONE` after `| head` has read enough."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is in the buffer would raise once more when Python ends, with words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


def write_utf8(text: bytes) -> None:
    """Bytes to stdout whatever its encoding is: JSON is UTF-8."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text)


def refuse_gone_folder() -> None:
    """Raises LorawrightError if the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise LorawrightError(
            "the current folder has been removed", hint="`cd` into one that is there"
        ) from None
