"""Names and files as users have them: names that are not UTF-8, pipes, links that lead nowhere."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

WAIT_FOR_NOBODY = getattr(os, "O_NONBLOCK", 0)  # a pipe put in the file's place must not hang us
NO_FILE = {
    stat.S_IFIFO: "it is a named pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
    stat.S_IFDIR: "it is a folder",
}


def open_file(path: Path) -> BufferedReader:
    """A regular file, opened to read its bytes.

    Raises:
        OSError: It cannot be opened, or is something else; the reason is meant for people.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        leads_to = printable(os.readlink(path))
        raise OSError(errno.ENOENT, f"it is a link to {leads_to}, where nothing is") from None
    if kind in NO_FILE:
        raise OSError(errno.EINVAL, f"{NO_FILE[kind]}, not a file")
    return open(path, "rb", opener=_opener)


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | WAIT_FOR_NOBODY)


def printable(name: str) -> str:
    """A name in one line: bytes that are not UTF-8 and control characters as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def display_name(path: Path) -> str:
    """Relative to the current folder if the file is inside it, else as given; printable."""
    try:
        folder = os.getcwd() + os.sep
        absolute = os.path.abspath(path)
    except FileNotFoundError:  # the current folder is gone
        return printable(str(path))
    inside = absolute.startswith(folder)
    return printable(absolute.removeprefix(folder) if inside else str(path))
