"""Run folder → facts about its run, for report, model card and push; nothing is written here.

    plan.json      steps, reasons, memory, lengths     (written before the first step)
    rows.json      a few chats, token by token         (the same)
    result.json    how it ended                        (written at the end)

Needs neither the data nor the model, and takes runs that were cut short as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from lorawright.run import checkpoint, shapes
from lorawright.run.folder import RunFolder, damaged, open_run, read_object
from lorawright.run.outcome import Outcome, outcome

PLAN, ROWS, RESULT = "plan.json", "rows.json", "result.json"
MOST_REJECTED = 200  # listed; all are counted


class State(StrEnum):
    """How far a run has come."""

    FINISHED = "finished"  # all steps are done
    STOPPED = "stopped"  # a complete checkpoint to go on from
    UNFINISHED = "unfinished"  # nothing to go on from


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A chat of the training set as the report shows it.

    Attributes:
        glyphs: Ids that make whole characters, their text, and whether they are trained.
    """

    file: str
    line: int
    num_tokens: int
    num_trained_tokens: int
    glyphs: tuple[tuple[tuple[int, ...], str, bool], ...]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run folder, read. What a run has not written (yet) is None or empty.

    Attributes:
        name: The folder's.
        path: The folder, as it was named.
        state: How far it came.
        config: Resolved settings.
        steps: A line a logged step; values are finite numbers or None.
        evals: A line an evaluation.
        plan: Steps, reasons, memory, lengths.
        environment: Versions and hardware.
        certificate: What was proven of the masks.
        data: Counts.
        result: How it ended.
        rejected: The first rows that were left out, with why.
        num_rejected: How many there were.
        rows: A few chats, token by token.
        evaluation, merge, gguf, ollama, vllm: What those verbs found.
    """

    name: str
    path: Path
    state: State
    config: dict[str, Any]
    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    plan: dict[str, Any]
    environment: dict[str, Any]
    certificate: dict[str, Any]
    data: dict[str, Any]
    result: dict[str, Any]
    rejected: list[dict[str, Any]]
    num_rejected: int
    rows: list[SampleRow]
    evaluation: dict[str, Any] | None
    merge: dict[str, Any] | None
    gguf: dict[str, Any] | None
    ollama: dict[str, Any] | None
    vllm: dict[str, Any] | None

    @property
    def outcome(self) -> Outcome:
        """The figures that are told."""
        return outcome([*self.steps, *self.evals])


def read(path: str | Path) -> RunFacts:
    """Reads a run folder.

    Raises:
        RunFolderError: There is no run, or one of its files is damaged.
    """
    run, config = open_run(path)
    lines = [_finite(line) for line in run.read_metrics()]
    rejected, num_rejected = _rejected(run.path / "rejected.jsonl")
    return RunFacts(
        name=run.path.resolve().name,
        path=run.path,
        state=_state(run),
        config=config,
        steps=[line for line in lines if "loss" in line],
        evals=[line for line in lines if "eval_loss" in line],
        plan=_json(run.path / PLAN, shapes.PlanFile) or {},
        environment=_json(run.environment, shapes.EnvironmentFile) or {},
        certificate=_json(run.certificate, shapes.CertificateFile) or {},
        data=_json(run.path / "data.json", shapes.DataFile) or {},
        result=_json(run.path / RESULT, shapes.ResultFile) or {},
        rejected=rejected,
        num_rejected=num_rejected,
        rows=_rows(run.path / ROWS),
        evaluation=_json(run.path / "evaluation.json", shapes.EvaluationFile),
        merge=_json(run.path / "merge.json", shapes.ExportFile),
        gguf=_gguf(run.path / "export-gguf.json"),
        ollama=_json(run.path / "export-ollama.json", shapes.ExportFile),
        vllm=_json(run.path / "export-vllm.json", shapes.ExportFile),
    )


def _state(run: RunFolder) -> State:
    if (run.adapter / "adapter_config.json").is_file():
        return State.FINISHED
    return State.UNFINISHED if checkpoint.latest(run.checkpoints) is None else State.STOPPED


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """Without infinities and NaN, which JSON in a page cannot hold."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }


def _json(path: Path, shape: type[shapes.Shape]) -> dict[str, Any] | None:
    found = read_object(path)
    if found:
        shapes.refuse_odd(shape, found, path)
    return found


def _gguf(path: Path) -> dict[str, Any] | None:
    found = read_object(path)
    for entry in (found or {}).values():
        shapes.refuse_odd(shapes.ExportFile, entry, path)
    return found


def _rejected(path: Path) -> tuple[list[dict[str, Any]], int]:
    if not path.is_file():
        return [], 0
    lines = path.read_bytes().splitlines()
    try:
        found = [orjson.loads(line) for line in lines[:MOST_REJECTED]]
    except orjson.JSONDecodeError as error:
        raise damaged(path, f"holds a line that is not JSON: {error}") from None
    for line in found:
        shapes.refuse_odd(shapes.RejectedLine, line, path)
    return found, len(lines)


def _rows(path: Path) -> list[SampleRow]:
    found = _json(path, shapes.RowsFile)
    return [
        SampleRow(
            file=row["file"],
            line=row["line"],
            num_tokens=row["num_tokens"],
            num_trained_tokens=row["num_trained_tokens"],
            glyphs=tuple((tuple(ids), text, trained) for ids, text, trained in row["glyphs"]),
        )
        for row in (found["rows"] if found else [])
    ]
