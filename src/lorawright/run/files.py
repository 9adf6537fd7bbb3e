"""Bytes → a file that is whole or absent, also after a power cut: written beside, renamed."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

TEMPORARY = ".tmp"  # behind the name of a file or folder that does not count yet


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content or nothing, synced to disk."""
    work = path.with_name(path.name + TEMPORARY)
    with open(work, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(work, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Has a file, or a folder's list of names, on the disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # Windows opens no folders; NTFS journals their changes by itself
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
