"""The C library's memory allocator, set for training on a CPU before Python has begun.

A step takes and gives back the same few hundred large buffers. glibc hands each back to the system
at once and takes it again, and every page of it is then faulted in anew. Its tunables, or those of
jemalloc, make it keep them; they are read when a process begins, so the command starts itself once
more with them set:

    lorawright train c.yaml  ─►  the same process id, arguments, files; GLIBC_TUNABLES=…

Only the command line does this (`restart_if_useful`), never a library call, never where something
is set already, never twice. `LORAWRIGHT_ALLOCATOR=keep` turns it off. See glibc's manual, "Memory
Allocation Tunables", and jemalloc's TUNING.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from lorawright.errors import ConfigError

SWITCH = "LORAWRIGHT_ALLOCATOR"
DONE = "LORAWRIGHT_ALLOCATOR_SET"  # which one; children see it, and nobody starts itself twice
TRAINING_VERBS = ("train", "evaluate", "quickstart")
# Whoever has set one of these has chosen.
CHOICES = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_CONF",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)
GLIBC = {
    # no huge pages: they cost 5 s of the first step and gained nothing after it (docs/log.md)
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=8589934592:"
    "glibc.malloc.trim_threshold=17179869184"
}
JEMALLOC_CONF = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
JEMALLOC_PLACES = ("/usr/lib/*/libjemalloc.so.2", "/usr/lib*/libjemalloc.so.2")
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choice depends on.

    Attributes:
        platform: `sys.platform`.
        libc: Name and version, such as `glibc 2.36`; empty where it is another.
        jemalloc: Path of the library, or None.
        has_gpu: Whether a GPU is visible: its memory is not malloc's.
        environment: The process's.
    """

    platform: str
    libc: str
    jemalloc: str | None
    has_gpu: bool
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Choice:
    """Variables to start with, none if nothing is to be done, and why in a few words."""

    variables: Mapping[str, str]
    reason: str


def choose(facts: Facts) -> Choice:
    """Which variables help training here.

    Raises:
        ConfigError: `LORAWRIGHT_ALLOCATOR` is neither `auto` nor `keep`.
    """
    environment = facts.environment
    switch = environment.get(SWITCH) or "auto"
    if switch not in ("auto", "keep"):
        raise ConfigError(f"is `{switch}`", where=SWITCH, hint="expected auto or keep")
    if environment.get(DONE):
        return Choice({}, f"{environment[DONE]}, set by lorawright at its start")
    if switch == "keep":
        return Choice({}, f"as it is: {SWITCH}=keep")
    chosen = [name for name in CHOICES if environment.get(name)]
    if chosen:
        return Choice({}, f"as you set it: {', '.join(chosen)}")
    if facts.platform != "linux" or facts.has_gpu:
        why = "a GPU trains" if facts.has_gpu else f"nothing is known to help on {facts.platform}"
        return Choice({}, f"as it is: {why}")
    if facts.jemalloc is not None:
        variables = {"LD_PRELOAD": facts.jemalloc, "MALLOC_CONF": JEMALLOC_CONF, DONE: "jemalloc"}
        return Choice(variables, f"jemalloc that keeps its memory ({facts.jemalloc})")
    if facts.libc.startswith("glibc"):
        return Choice({**GLIBC, DONE: facts.libc}, f"{facts.libc} that keeps its memory")
    return Choice({}, "as it is: neither glibc nor jemalloc")


def detect() -> Facts:
    """Looks around without importing anything large."""
    known = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    libc = os.confstr("CS_GNU_LIBC_VERSION") if known else None
    places = (*JEMALLOC_PLACES, f"{sys.prefix}/lib/libjemalloc.so.2")
    found = sorted(path for place in places for path in glob(place))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    has_gpu = not hidden and any(os.path.exists(path) for path in GPU_FILES)
    return Facts(sys.platform, libc or "", found[0] if found else None, has_gpu, os.environ)


def trains(arguments: Sequence[str]) -> bool:
    """Whether a command line is one of those that train or measure training."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    if {"-h", "--help", "--dry-run"} & set(arguments):
        return False
    return verb in TRAINING_VERBS or (verb == "plan" and "--probe" in arguments)


def restart_if_useful(program: str, arguments: Sequence[str]) -> None:
    """Replaces this process by itself with the variables set; returns where that is no use.

    Args:
        program: `sys.argv[0]`; a script of someone else's that calls us is never started again.
        arguments: The rest of it.

    Raises:
        ConfigError: As `choose`.
    """
    path = Path(program)
    is_ours = path.stem == "lorawright" or path.parts[-2:] == ("lorawright", "__main__.py")
    if not is_ours or not trains(arguments):
        return
    variables = choose(detect()).variables
    if variables:
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **variables})
