"""Errors of memory, disk and pickles while a run goes on → errors with address and hint."""

from __future__ import annotations

import errno
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorawright.errors import LorawrightError, RunFolderError, TrainError
from lorawright.i18n import units
from lorawright.plan.settings import Settings
from lorawright.run import checkpoint, lock, owned
from lorawright.run import names as run_names
from lorawright.run.folder import RunFolder

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
ALMOST_FULL_BYTES = 64 * 1024**2  # torch ends a file it could not write with another error


@contextmanager
def removed_on_error(folder: RunFolder, *, begins: bool) -> Iterator[None]:
    """A run that fails before its first checkpoint or metric leaves nothing of its own behind.

    What stood there before stays, and so does what appeared meanwhile and is not a run's.

    Args:
        folder: The run's.
        begins: Whether this process begins a run; one that is gone on with stays as it is.
    """
    before = _stamps(folder.path)
    folders = [folder.path / name for name in run_names.FOLDERS]
    stood = [path for path in folders if path.exists()]
    try:
        yield
    except BaseException:  # whatever ends it, Ctrl-C included; raised again below
        sealed = any(folder.checkpoints.glob(f"checkpoint-*/{checkpoint.MARKER}"))
        if begins and not folder.metrics.exists() and not sealed:
            written = _stamps(folder.path)
            with suppress(OSError):  # what ended the run is worth more than this
                names = [name for name in written if before.get(name) != written[name]]
                owned.remove(folder.path, names, kept=stood)
                owned.remove_empty([path for path in folders if path not in stood])
        raise


@contextmanager
def new_folders_removed_on_error(path: Path) -> Iterator[None]:
    """A folder and those above it that were not there go again, if they are empty."""
    missing = [one for one in (path, *path.absolute().parents) if not one.exists()]
    try:
        yield
    except BaseException:  # whatever ends it, Ctrl-C included; raised again below
        with suppress(OSError):
            owned.remove_empty(missing)
        raise


def _stamps(run: Path) -> dict[str, tuple[int, int]]:
    """Number and time of each file that bears a name of a run's."""
    found = {}
    for name in run_names.own_files(run):
        with suppress(OSError):
            status = (run / name).lstat()
            found[name] = (status.st_ino, status.st_mtime_ns)
    return found


@contextmanager
def results_into(folder: RunFolder, verb: str) -> Iterator[None]:
    """A run folder that takes a verb's results, asked before the work, for this process alone.

    Args:
        folder: The run's.
        verb: As in `lorawright merge`.

    Raises:
        RunFolderError: Another process writes into the run, or nobody may.
    """
    with lock.held(
        folder.path,
        run_names.LOCK,
        verb=verb,
        hint=f"`lorawright {verb}` writes its result into the run: see to permissions and room",
    ):
        yield


@contextmanager
def held_output(target: Path, folder: RunFolder, verb: str) -> Iterator[None]:
    """An output folder that takes a verb's files, for this process alone.

    One inside the run is held with the run, see `results_into`; of another, a lock lies beside it.

    Args:
        target: The output folder.
        folder: The run that is exported.
        verb: As in `lorawright merge`.

    Raises:
        RunFolderError: Another process writes into the output, or nobody may.
    """
    if folder.path.resolve() in target.resolve().parents:
        yield
        return
    missing = [path for path in target.absolute().parents if not path.exists()]
    try:
        with lock.held(
            target.parent,
            f"{target.name}.{run_names.LOCK}",
            verb=verb,
            hint="choose another folder, or see to its permissions",
            place=target,
        ):
            yield
    finally:
        with suppress(OSError):
            owned.remove_empty(missing)


def write_result(folder: RunFolder, name: str, content: dict[str, Any]) -> None:
    """A verb's result in the run folder.

    Raises:
        LorawrightError: The disk is full, or the folder may not be written to any more.
    """
    path = folder.path / name
    with disk_full_at(path, "make room and run it again; other files of the run are intact"):
        try:
            folder.write_json(name, content)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            raise RunFolderError(
                f"cannot be written: {error.strerror}",
                where=str(path),
                hint="see to its permissions and run it again",
            ) from None


@contextmanager
def unwritable(target: Path) -> Iterator[None]:
    """Turns what the system says of a place that takes no more files into an address and a hint.

    Args:
        target: What is written.
    """
    with disk_full_at(target, "make room, or choose another disk with --output"):
        try:
            yield
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            raise RunFolderError(
                f"cannot be written: {error.strerror}",
                where=str(target),
                hint="choose another folder, or see to its permissions",
            ) from None


@contextmanager
def out_of_memory(settings: Settings) -> Iterator[None]:
    """Turns the allocators' errors into the setting to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _memory_error(settings, error) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise _memory_error(settings, error) from error


def _memory_error(settings: Settings, error: Exception) -> TrainError:
    training, memory = settings.config.training, settings.memory
    estimate = "" if memory is None else f"; the estimate was {units.size(memory.total)}"
    lower = (
        f"lower `training.tokens_per_pass` (now {training.tokens_per_pass}); results stay the same"
        if training.gradient_checkpointing
        else "set `training.gradient_checkpointing: true`, or lower `training.tokens_per_pass` "
        f"(now {training.tokens_per_pass}); results stay the same"
    )
    return TrainError(f"out of memory{estimate}", where=str(error).split("\n")[0][:120], hint=lower)


@contextmanager
def refused_pickle(checkpoint_folder: Path | None) -> Iterator[None]:
    """A checkpoint's file that holds more than numbers, which torch refuses to load, by name."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if checkpoint_folder is None:
            raise
        raise TrainError(
            "holds more than numbers and is not loaded: it was damaged, or made to run code",
            where=str(_refused_file(checkpoint_folder)),
            hint="do not use this checkpoint; move its folder away, and `--resume` goes on from "
            "the one before",
        ) from error


def _refused_file(folder: Path) -> Path:
    """The first file that torch refuses; random states, which need more names, as the last."""
    import torch

    others = [path for path in sorted(folder.rglob("*.pt")) if not path.is_symlink()]
    for path in (*others, *sorted(folder.glob("*.bin"))):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            if path.name != "training_args.bin":  # a pickle of settings; nothing reads it
                return path
    return next(iter(sorted(folder.glob("rng_state*.pth"))), folder)


@contextmanager
def disk_full(folder: RunFolder) -> Iterator[None]:
    """A disk that is full while training: what was saved before stays."""
    hint = (
        "what was being written does not count, earlier checkpoints are intact; make room "
        "and go on with `--resume`, or lower `training.keep_checkpoints`"
    )
    with disk_full_at(folder.path, hint):
        yield


@contextmanager
def disk_full_at(path: Path, hint: str) -> Iterator[None]:
    """Each library says in its own way that nothing more can be written."""
    try:
        yield
    except LorawrightError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _disk_error(path, hint, error) from error
    except Exception as error:
        # torch's zip writer and safetensors wrap the system's error in classes of their own
        text = str(error)
        numbers = any(f"(os error {number})" in text for number in FULL)
        writer = "PytorchStreamWriter" in text
        closing = ("inline_container" in text or "unexpected pos" in text) and _is_full(path)
        if not (numbers or writer or closing):
            raise
        raise _disk_error(path, hint, error) from error


def _is_full(path: Path) -> bool:
    """Whether so little is free that this must have been the cause."""
    existing = next(one for one in (path, *path.absolute().parents) if one.exists())
    return shutil.disk_usage(existing).free < ALMOST_FULL_BYTES


def _disk_error(path: Path, hint: str, error: Exception) -> TrainError:
    return TrainError(
        f"the disk is full, or may not be written to: {str(error).splitlines()[0][:120]}",
        where=str(path),
        hint=hint,
    )
