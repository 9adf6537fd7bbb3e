"""What a run leaves for people: facts before the first step, the report at its end."""

from __future__ import annotations

from lorawright import masks, report
from lorawright.dataset.prepare import Prepared
from lorawright.masks import view
from lorawright.model.load import Trainable
from lorawright.plan.job import Job
from lorawright.plan.steps import Plan
from lorawright.run import facts
from lorawright.run.facts import SampleRow
from lorawright.run.folder import RunFolder


def start(run: RunFolder, plan: Plan, prepared: Prepared, job: Job, trainable: Trainable) -> None:
    """Writes what the report needs, so that it never needs data or model."""
    tokenizer = masks.load(job.model_folder, job.resolved.config.model.name)
    rows = [
        SampleRow(
            chosen.file,
            chosen.line,
            len(chosen.ids),
            chosen.num_trained_tokens,
            tuple(view.glyphs(tokenizer, chosen)),
        )
        for chosen in facts.choose(prepared.train)
    ]
    numbers = (trainable.num_trainable, trainable.num_total)
    facts.write_start(run, job, plan, prepared, rows, numbers)


def end(
    run: RunFolder, seconds: float, stopped_by: str | None, peak_memory_bytes: int | None
) -> None:
    """Writes how it ended, and the report; `seconds`: of all sittings."""
    facts.write_end(
        run,
        {
            "seconds": seconds,
            "stopped_by": stopped_by,
            "peak_memory_bytes": peak_memory_bytes,
        },
    )
    report.write(run.path, report.own_language())
