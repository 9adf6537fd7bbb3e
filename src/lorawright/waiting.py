"""How long OpenMP's threads spin while they wait for each other, set before torch is imported.

After a parallel loop the threads of libgomp count to 300,000 before they sleep. Where another
program holds one of the cores, the thread that is still at work is the one that waits for a core,
and the others burn theirs meanwhile: a training step took 33 s in place of 5.4 s on two cores of
which one was taken, 12 s with a short spin, and the same 5.4 s on an idle machine (docs/log.md).

libgomp and libiomp read their variables when they are loaded, with torch; nothing is started anew.
See GCC's manual of libgomp, "GOMP_SPINCOUNT", and LLVM's of OpenMP, "KMP_BLOCKTIME".
"""

from __future__ import annotations

from collections.abc import MutableMapping

SHORT_SPIN = {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}
"""libgomp's in turns of a loop, libiomp's in milliseconds (its default is 200)."""

CHOICES = ("OMP_WAIT_POLICY", *SHORT_SPIN)


def set_short_spin(environment: MutableMapping[str, str]) -> None:
    """Makes waiting threads sleep soon; whoever has set one of the variables has chosen."""
    if not any(environment.get(name) for name in CHOICES):
        environment.update(SHORT_SPIN)


def describe(environment: MutableMapping[str, str]) -> str:
    """What is set, for `doctor`."""
    found = [f"{name}={environment[name]}" for name in CHOICES if environment.get(name)]
    return ", ".join(found) or "as OpenMP does by default: they spin for long"
