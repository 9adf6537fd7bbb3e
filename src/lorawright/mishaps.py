"""What can go wrong while a run goes on, turned into errors with an address and a hint."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from lorawright.errors import TrainError
from lorawright.resolve import Resolved
from lorawright.run_folder import RunFolder

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def removed_on_error(folder: RunFolder) -> Iterator[None]:
    """A run that fails before its first checkpoint or metric leaves no folder behind."""
    existed = folder.holds_a_run()
    try:
        yield
    except BaseException:  # whatever ends it, Ctrl-C included; raised again below
        if not existed and not folder.metrics.exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@contextmanager
def out_of_memory(resolved: Resolved) -> Iterator[None]:
    """Turns the allocators' errors into the setting to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _memory_error(resolved, error) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise _memory_error(resolved, error) from error


def _memory_error(resolved: Resolved, error: Exception) -> TrainError:
    training, memory = resolved.config.training, resolved.memory
    estimate = "" if memory is None else f"; the estimate was {memory.total / 1e9:.1f} GB"
    lower = (
        f"lower `training.tokens_per_pass` (now {training.tokens_per_pass}); results stay the same"
        if training.gradient_checkpointing
        else "set `training.gradient_checkpointing: true`, or lower `training.tokens_per_pass` "
        f"(now {training.tokens_per_pass}); results stay the same"
    )
    return TrainError(f"out of memory{estimate}", where=str(error).split("\n")[0][:120], hint=lower)


@contextmanager
def disk_full(folder: RunFolder) -> Iterator[None]:
    """Each library says in its own way that nothing more can be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _disk_error(folder, error) from error
    except Exception as error:
        # torch's zip writer and safetensors wrap the system's error in classes of their own
        text = str(error)
        numbers = any(f"(os error {number})" in text for number in FULL)
        if "PytorchStreamWriter" not in text and not numbers:
            raise
        raise _disk_error(folder, error) from error


def _disk_error(folder: RunFolder, error: Exception) -> TrainError:
    return TrainError(
        f"the disk is full, or may not be written to: {str(error).splitlines()[0][:120]}",
        where=str(folder.path),
        hint="what was being written does not count, earlier checkpoints are intact; make room "
        "and go on with `--resume`, or lower `training.keep_checkpoints`",
    )
