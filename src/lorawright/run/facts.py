"""What a run folder says about its run: read for report, model card and push.

    plan.json      steps, reasons, memory, lengths     (written before the first step)
    rows.json      a few chats, token by token         (the same)
    result.json    how it ended                        (written at the end)

Needs neither the data nor the model, and takes runs that were cut short as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from lorawright.dataset.prepare import Prepared
from lorawright.masks.view import Glyph
from lorawright.plan.job import Job
from lorawright.plan.steps import Plan
from lorawright.run import checkpoint, shapes
from lorawright.run.folder import RunFolder, damaged, open_run, read_object
from lorawright.run.outcome import Outcome, outcome
from lorawright.types import EncodedChat

PLAN, ROWS, RESULT = "plan.json", "rows.json", "result.json"
NUM_ROWS = 4  # chats kept for the report
MOST_ROW_TOKENS = 600  # longer ones are passed over where shorter ones exist
MOST_REJECTED = 200  # listed; all are counted
NUM_BINS = 32  # of the histogram of lengths


class State(StrEnum):
    """How far a run has come."""

    FINISHED = "finished"
    STOPPED = "stopped"  # a complete checkpoint to go on from
    UNFINISHED = "unfinished"  # nothing to go on from


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A chat of the training set as the report shows it."""

    file: str
    line: int
    num_tokens: int
    num_trained_tokens: int
    glyphs: tuple[Glyph, ...]


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
            glyphs=tuple(Glyph(tuple(ids), text, trained) for ids, text, trained in row["glyphs"]),
        )
        for row in (found["rows"] if found else [])
    ]


def write_start(
    run: RunFolder,
    job: Job,
    plan: Plan,
    prepared: Prepared,
    rows: Iterable[SampleRow],
    num_parameters: tuple[int, int],
) -> None:
    """What is known before the first step; `num_parameters`: trained, and all."""
    resolved = job.resolved
    memory = resolved.memory
    evaluation = prepared.eval
    content = {
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "num_steps": plan.num_steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "num_trainable": num_parameters[0],
        "num_parameters": num_parameters[1],
        "resume_command": job.resume_command,
        "reasons": resolved.reasons,
        "memory": None if memory is None else {**asdict(memory), "total": memory.total},
        "lengths": {
            "train": _histogram(prepared.train.num_tokens_N),
            "eval": None if evaluation is None else _histogram(evaluation.num_tokens_N),
        },
    }
    _write(run.path / PLAN, content)
    _write(run.path / ROWS, {"rows": [asdict(row) | {"glyphs": _plain(row)} for row in rows]})


def write_end(run: RunFolder, content: dict[str, Any]) -> None:
    """How it ended."""
    _write(run.path / RESULT, content)


def _plain(row: SampleRow) -> list[tuple[tuple[int, ...], str, bool]]:
    return [(glyph.ids, glyph.text, glyph.trained) for glyph in row.glyphs]


def _write(path: Path, content: dict[str, Any]) -> None:
    checkpoint.write_atomically(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _histogram(num_tokens_N: npt.NDArray[np.int64]) -> dict[str, list[int]]:
    """Chats by length: the upper edge of each bin in tokens, and how many are in it."""
    longest = int(num_tokens_N.max(initial=1))
    width = max(1, -(-longest // NUM_BINS))
    counts = np.bincount((num_tokens_N - 1).clip(0) // width)
    return {"upto": [(i + 1) * width for i in range(len(counts))], "num": counts.tolist()}


def choose(chats: Iterable[EncodedChat], num_looked_at: int = 200) -> list[EncodedChat]:
    """A few chats to show: of the first, those with most answers, none too long to read."""
    seen = [chat for _, chat in zip(range(num_looked_at), chats, strict=False)]
    readable = [chat for chat in seen if len(chat.ids) <= MOST_ROW_TOKENS]
    if not readable:
        return sorted(seen, key=lambda chat: len(chat.ids))[:1]
    by_answers = sorted(readable, key=lambda chat: -len(chat.spans))
    kept = [*by_answers[: NUM_ROWS // 2], *readable]
    return list(dict.fromkeys(kept))[:NUM_ROWS]
