"""How much memory a process may still take: what the system has free, and what a container allows.

    /proc/self/cgroup   0::/a/b      ─►  /sys/fs/cgroup/a/b/memory.max, /a/memory.max, …
                        5:memory:/a  ─►  /sys/fs/cgroup/memory/a/memory.limit_in_bytes, …

A limit stands in any group above a process; inside a container the paths of the host may not
exist, the mount's top is the container's own group then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files of limit and use, and the field of memory.stat that is given back when it is needed."""


def free_memory(root: Path = ROOT) -> int:
    """Bytes that can be had without swapping, and without being ended by a container.

    Args:
        root: Of the file system, for tests.
    """
    free = int(psutil.virtual_memory().available)
    for folder, names in _groups(root):
        allowed = _left(folder, names)
        if allowed is not None:
            free = min(free, allowed)
    return free


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders that may limit this process, its own first."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, names = (top / "memory", V1) if controllers else (top, V2)
        own = mount / path.lstrip("/")
        for folder in (own, *own.parents):
            yield folder, names
            if folder == mount:
                break


def _left(folder: Path, names: tuple[str, str, str]) -> int | None:
    """Bytes that a group may still take; None without a limit."""
    limit, used, given_back = names
    try:
        allowed, taken = (folder / limit).read_text(), int((folder / used).read_text())
        if not allowed.strip().isdigit():  # `max`
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(allowed) - taken + int(stat.get(given_back, 0)))
    except (OSError, ValueError):
        return None
