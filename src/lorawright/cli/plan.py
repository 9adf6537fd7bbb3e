"""`lorawright plan CONFIG`: steps, tokens, memory and time, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides
from lorawright.i18n import units

if TYPE_CHECKING:
    from lorawright.cli.progress import RowCounter
    from lorawright.config import Config
    from lorawright.plan.estimate import Times
    from lorawright.plan.run_plan import RunPlan
    from lorawright.plan.workload import Totals
    from lorawright.run.events import Event


def plan(
    config: ConfigFile,
    set_: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure the first steps; loads the model.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the steps of a run, its memory and its time."""
    from lorawright.cli import console
    from lorawright.cli.progress import RowCounter
    from lorawright.config import load
    from lorawright.distributed.signals import quiet

    settings = load(config, set_ or []).config
    quiet()
    from lorawright.plan import run_plan, workload

    with RowCounter(quiet=json) as progress:
        found = run_plan.make(settings, lambda event: _show(event, progress))
    totals = workload.totals(found.steps)
    times, peak = _cost(settings, found, totals, probe=probe)
    if json:
        console.print_json(_facts(found, totals, times, peak, probe=probe))
    else:
        _print(found, totals, times, peak, probe=probe)


def _show(event: Event, progress: RowCounter) -> None:
    from lorawright.cli import console
    from lorawright.run.events import Noted, RowsRead

    if isinstance(event, RowsRead):
        progress(event.num_rows)
    elif isinstance(event, Noted) and event.is_warning:
        console.warn(event.text)


def _cost(
    settings: Config, plan: RunPlan, totals: Totals, *, probe: bool
) -> tuple[Times | None, int | None]:
    """Seconds and bytes: estimated, or measured by the run's first steps."""
    from lorawright.plan import workload

    times = workload.times(plan, totals.num_computed_tokens, totals.num_trained_tokens)
    if probe:
        from lorawright.plan.estimate import Times
        from lorawright.training import probe as measuring

        measured = measuring.run(settings, plan, totals)
        if times is None:
            return Times(measured.seconds, 0.0, 0), measured.peak_memory_bytes
        factor = measured.seconds / times.steps
        scaled = Times(measured.seconds, times.evaluation * factor, times.num_evaluations)
        return scaled, measured.peak_memory_bytes
    memory = plan.settings.memory
    return times, None if memory is None else memory.total


def _facts(
    plan: RunPlan, totals: Totals, times: Times | None, peak: int | None, *, probe: bool
) -> dict[str, object]:
    return {
        "num_steps": len(plan.steps),
        "num_epochs": plan.config.training.epochs,
        "num_chats": plan.chats.train.num_chats,
        "num_sequences": len(plan.chats.train),
        "num_tokens": totals.num_tokens,
        "num_trained_tokens": totals.num_trained_tokens,
        "num_computed_tokens": totals.num_computed_tokens,
        "num_passes": totals.num_passes,
        "exact": totals.exact,
        "peak_memory_bytes": peak,
        "seconds": None if times is None else times.total,
        "num_evaluations": None if times is None else times.num_evaluations,
        "evaluation_seconds": None if times is None else times.evaluations,
        "probed": probe,
        "derived": plan.settings.reasons,
    }


def _schedule(plan: RunPlan) -> str:
    """How the learning rate goes, and that a warm-up begins with a step that changes nothing."""
    from lorawright.config import schedules

    training = plan.config.training
    given = training.trl.get("lr_scheduler_kwargs", {})
    num_steps, from_zero = schedules.warmup(
        training.schedule, training.warmup_ratio, len(plan.steps), given
    )
    text = f"{training.schedule}, highest learning rate {training.learning_rate:g}"
    if num_steps == 0:
        return text
    text = f"{text}, warm-up {num_steps} of {len(plan.steps)} steps"
    return f"{text}; step 1 has learning rate 0" if from_zero else text


def _of_it(times: Times) -> str:
    """What of the time is evaluation."""

    if not times.num_evaluations:
        return ""
    each = units.duration(times.evaluation)
    return f", of it evaluation {times.num_evaluations} × {each}"


def _print(
    plan: RunPlan, totals: Totals, times: Times | None, peak: int | None, *, probe: bool
) -> None:
    from lorawright.cli import console
    from lorawright.i18n.catalogue import translate

    out = console.out()
    number, about = console.number, "" if totals.exact else translate("about ")
    num_tokens, num_computed = totals.num_tokens, totals.num_computed_tokens
    saved, share = num_tokens - num_computed, totals.num_trained_tokens / num_tokens
    out.print(f"steps      {number(len(plan.steps))} of {plan.steps.batch_size} chats")
    chats = plan.chats.train
    if len(chats) > chats.num_chats:
        out.print(
            f"sequences  {number(len(chats))} of {number(chats.num_chats)} chats: each answer "
            "behind the prompt that inference sees"
        )
    out.print(f"schedule   {_schedule(plan)}")
    out.print(f"passes     {about}{number(totals.num_passes)}, no padding")
    out.print(f"tokens     {about}{number(num_tokens)}, {share:.0%} trained")
    out.print(
        f"prefixes   {about}{number(num_computed)} tokens computed, {number(saved)} "
        f"({saved / num_tokens:.0%}) saved by what chats of a step begin with"
    )
    memory = plan.settings.memory
    if probe and peak is not None:
        out.print(f"memory     {units.size(peak)}, measured")
    elif memory is not None:
        out.print(
            f"memory     {units.size(memory.total)}: weights {units.size(memory.weights)}, "
            f"activations {units.size(memory.activations)}, logits {units.size(memory.logits)}, "
            f"libraries {units.size(memory.runtime)}, adapter {units.size(memory.adapter)}"
        )
    if times is not None:
        time, name = units.duration(times.total), plan.settings.hardware.name
        text = f"time       about {time}, by the first steps"
        if not probe:
            text = f"time       about {time} on {name}"
        out.print(translate(text) + translate(_of_it(times)))
    for key, reason in plan.settings.reasons.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(plan.config, section), name)
        out.print(f"{key}: {value}", end="  ")
        out.print(f"({translate(reason)})", style="dim")
