"""Run folder and way to start → the folder held for one run, cleared or resumed from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from lorawright.config.schema import Config
from lorawright.plan.run_plan import RunPlan
from lorawright.run import checkpoint, lock, outputs, resume
from lorawright.run import names as run_names
from lorawright.run.events import Noted, Tell
from lorawright.run.folder import RunFolder, read_config
from lorawright.training import failures

NUM_NAMED = 8  # files that are not ours, in the note about them


class Start(StrEnum):
    """How a run begins."""

    NEW = "new"  # refuses a folder that holds a run
    OVERWRITE = "overwrite"  # removes the run that is there
    RESUME = "resume"  # from the newest complete checkpoint, if it is of this run
    RESUME_ANYWAY = "resume_anyway"  # the same, although settings differ

    @property
    def resumes(self) -> bool:
        return self in (Start.RESUME, Start.RESUME_ANYWAY)


def leads(config: Config) -> bool:
    """Whether this is the machine that the run folder is judged and held by."""
    return config.distributed.machine_rank == 0


def refuse(folder: RunFolder, config: Config, start: Start, source: Path | None) -> None:
    """What would be lost, or is in use, before anything is read or fetched.

    Args:
        folder: The run's.
        config: As loaded.
        start: How the run begins.
        source: The config's file, if it comes from one.

    Raises:
        LorawrightError: The folder cannot be used that way.
    """
    lock.refuse_if_held(folder.path, run_names.LOCK)
    if start.resumes:
        resume.refuse_if_none(folder)
        return
    outputs.refuse_unsafe(config, source)
    if start is Start.NEW:
        folder.refuse_if_taken()
    else:
        folder.refuse_if_not_clearable()


def with_date(config: Config, start: Start) -> Config:
    """A resumed run's chats name the day of its first start, unless the config names another."""
    folder = RunFolder(Path(config.training.output))
    if not start.resumes or config.template.date != "auto" or not folder.config.is_file():
        return config
    template = config.template.model_copy(update={"date": read_config(folder).template.date})
    return config.model_copy(update={"template": template})


@contextmanager
def held(folder: RunFolder, config: Config, start: Start) -> Iterator[None]:
    """The run folder, for this process alone; where several machines share it, machine 0 holds it.

    Raises:
        RunFolderError: Another process writes into it, or has come first.
    """
    if not leads(config):
        yield
        return
    with (
        failures.new_folders_removed_on_error(folder.path),
        lock.held(folder.path, run_names.LOCK),
        # once it is held: until then what appears there is another process's
        failures.removed_on_error(folder, begins=not start.resumes),
    ):
        if start is Start.NEW:
            folder.refuse_if_taken()
        yield


def clear(folder: RunFolder, tell: Tell) -> None:
    """Removes a run that is begun anew, and says what stays."""
    kept = folder.clear()
    if kept:
        names = ", ".join(kept[:NUM_NAMED]) + (" …" if len(kept) > NUM_NAMED else "")
        tell(Noted(f"kept in {folder.path}, not ours: {names}"))


def departure(plan: RunPlan, folder: RunFolder, start: Start, tell: Tell) -> RunPlan:
    """The plan with its checkpoint to go on from; makes the run's metrics end there.

    Raises:
        RunFolderError: The checkpoint belongs to another run, or cannot be read.
    """
    if not start.resumes or not leads(plan.config):
        return plan
    anyway = start is Start.RESUME_ANYWAY
    latest, notes = resume.find(folder, plan.identity, anyway=anyway)
    for text in notes:
        tell(Noted(text))
    folder.rewind_metrics(-1 if latest is None else checkpoint.step_of(latest))
    return replace(plan, resume_from=latest)
