"""Run folder and identity of a run → the checkpoint to go on from, or why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorawright.errors import RunFolderError
from lorawright.run import checkpoint
from lorawright.run.folder import RunFolder


def find(
    folder: RunFolder, wanted: dict[str, Any], *, anyway: bool
) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint of this run, and notes for the user.

    Incomplete checkpoints are renamed with a word. None: there is no complete one yet.

    Raises:
        RunFolderError: There is no run, or its checkpoint belongs to another one.
    """
    refuse_if_none(folder)
    notes = [
        f"{broken} is not complete and does not count; it is {renamed.name} now"
        for broken, renamed in checkpoint.set_aside_broken(folder.checkpoints)
    ]
    latest = checkpoint.latest(folder.checkpoints)
    if latest is None:
        return None, [*notes, "no complete checkpoint yet: the run begins anew"]
    facts = checkpoint.read(latest)
    assert facts is not None
    before = facts.get("belongs_to")
    if not isinstance(before, dict):
        raise RunFolderError(
            "does not say which run the checkpoint belongs to",
            where=str(latest / checkpoint.MARKER),
            hint="put the file back from a copy; or rename the checkpoint, to go on from an "
            "earlier one",
        )
    differing = differences(_comparable(before), _comparable(wanted))
    if differing and not anyway:
        raise RunFolderError(
            f"the checkpoint belongs to another run: {'; '.join(differing)}",
            where=str(latest),
            hint="put the settings back, or go on with the new ones: `--resume-anyway`",
        )
    notes += [f"resumed although it differs: {difference}" for difference in differing]
    return latest, [*notes, f"going on from step {checkpoint.step_of(latest)}"]


def refuse_if_none(folder: RunFolder) -> None:
    """Raises RunFolderError where there is no run."""
    if not folder.holds_a_run():
        raise RunFolderError(
            "holds no run to go on with",
            where=str(folder.path),
            hint="leave `--resume` out to begin one",
        )


def _comparable(identity: dict[str, Any]) -> dict[str, Any]:
    """Without the base's name: its weights tell, however its folder is spelled or where it went."""
    named = identity.get("model")
    if not identity.get("base_weights") or not isinstance(named, dict):
        return identity
    model = {key: value for key, value in named.items() if key != "name"}
    return {**identity, "model": model}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`training.learning_rate was 0.002, is 0.0001`, one a differing value."""
    found: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{key}.{text}" for text in differences(old, new)]
        elif old != new:
            found.append(f"{key} was {_brief(old)}, is {_brief(new)}")
    return found


def _brief(value: Any) -> str:
    return str(value) if len(str(value)) <= 40 else f"{str(value)[:12]}…"
