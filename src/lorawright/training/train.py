"""One run: config → chats → plan → model → trainer → run folder.

result = train.run(load("config.yaml").config)
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lorawright import hub, masks
from lorawright.config.schema import Config, Strategy
from lorawright.dataset import prepare
from lorawright.distributed import group as distributed
from lorawright.distributed import launch_files, launcher
from lorawright.distributed.control import Pulse
from lorawright.distributed.group import ALONE, Group
from lorawright.distributed.signals import Stop, stop_on_signals
from lorawright.model import compiled, load, selfcheck
from lorawright.model import loss as head
from lorawright.model.attention import OWN
from lorawright.model.load import Trainable
from lorawright.model.loss import Loss
from lorawright.plan import settings as resolve
from lorawright.plan.job import Job
from lorawright.plan.ready import Ready, evaluation_plan, get_ready, make_plan
from lorawright.plan.steps import Plan
from lorawright.run import checkpoint, lock, names, resume
from lorawright.run.events import Screen, replay
from lorawright.run.folder import RunFolder
from lorawright.run.outcome import Outcome, outcome
from lorawright.run.records import Watcher
from lorawright.training import adapter, claim, failures, handover, ranks, trackers
from lorawright.training.claim import Start
from lorawright.training.trainer import PlannedTrainer, own_autocast, sft_config

__all__ = [
    "Ready", "Result", "Screen", "Start", "describe", "evaluation_plan",
    "get_ready", "make_plan", "prepare_only", "run", "run_rank", "settle",
]  # fmt: skip

NUM_COMPARED = 32  # chats that both tokenizers read before training


@dataclass(frozen=True, slots=True)
class Result:
    """What came out.

    `stopped_by` is the signal that ended the run early, or None; the run can then be resumed.
    `first_loss` and `last_loss` are single steps'; `outcome` has the figures that are told.
    """

    folder: RunFolder
    num_steps: int
    first_loss: float
    last_loss: float
    eval_loss: float | None
    seconds: float
    stopped_by: signal.Signals | None
    outcome: Outcome


def run(
    config: Config,
    *,
    start: Start = Start.NEW,
    screen: Screen | None = None,
    source: Path | None = None,
    command: Sequence[str] | None = None,
) -> Result:
    """Fine-tunes once, in this process or in several that are started here.

    Args:
        config: As loaded; `auto` is settled here.
        start: Begin, begin anew, or go on from the newest complete checkpoint.
        screen: Told of everything; silent by default.
        source: The config's file: its folder is never taken for an output.
        command: What goes on with the run after a stop; kept in the run folder.

    Raises:
        LorawrightError: With an address and a hint, whatever was wrong.
    """
    screen = screen or Screen()
    ready, job = settle(config, start, screen, source)
    job = replace(job, resume_command=None if command is None else list(command))
    folder = RunFolder(Path(config.training.output))
    overwrite = start is Start.OVERWRITE
    with stop_on_signals(tell=screen.stopping) as stop, claim.held(folder, config, start):
        job = claim.departure(job, folder, start, screen)
        if launch_files.is_launched(ready.config):
            _, stopped_by = _launch(job, ready, folder, screen, stop, overwrite=overwrite)
        else:
            _, stopped_by = _train(job, ready, folder, screen, stop, overwrite=overwrite)
    if stopped_by is not None:
        stopped_by = stop.number or stopped_by  # a launcher passes Ctrl-C on as SIGTERM
    result = _result(folder, ready.plan, stopped_by)
    if config.distributed.machine_rank == 0:
        _hand_over(ready, result)
    return result


def settle(
    config: Config, start: Start, screen: Screen, source: Path | None = None
) -> tuple[Ready, Job]:
    """Everything that is decided before a process trains, but for where it goes on: nothing is
    written.

    The run folder is machine 0's to judge; the others go by what it has found.
    """
    folder = RunFolder(Path(config.training.output))
    if claim.leads(config):
        claim.refuse(folder, config, start, source)
    ready = get_ready(config, screen)
    _sft_config(ready, folder)  # what TRL refuses, before anything is fetched or started
    base_folder = _base_folder(ready.config)
    identity = _identity(ready, base_folder)
    prepared = ready.prepared.folder
    return ready, Job(ready.resolved, prepared, ready.model_folder, base_folder, identity, None)


def prepare_only(config: Config, start: Start, screen: Screen, source: Path | None = None) -> Path:
    """Settles a run and writes what its processes read, for another launcher to start them.

    Returns:
        The job file: `torchrun … --module lorawright.training.worker JOB`.
    """
    _, job = settle(config, start, screen, source)
    folder = RunFolder(Path(config.training.output))
    with claim.held(folder, config, start):
        job = claim.departure(job, folder, start, screen)
        if start is Start.OVERWRITE and claim.leads(config):
            claim.clear(folder, screen)
    return launcher.write_files(job, folder) / launch_files.JOB


def run_rank(job: Job, screen: Screen, pulse: Pulse | None) -> tuple[float, int | None]:
    """Trains as one of several processes, here or on another machine.

    Args:
        job: As its launcher has settled it.
        screen: Shown what rank 0 does; silent for the others.
        pulse: Told of all progress.

    Returns:
        Seconds of training, and the signal that ended it early.
    """
    group = distributed.join(job.resolved.config.distributed, job.resolved.hardware.device)
    job = ranks.agree(job, group)
    resolved = job.resolved
    prepared = prepare.reopen(job.prepared)
    ready = Ready(prepared, resolved, make_plan(resolved.config, prepared.train), job.model_folder)
    folder = RunFolder(Path(resolved.config.training.output))
    alone = pulse is None and group.is_main  # with a launcher, that holds the lock
    with (
        stop_on_signals(patient=pulse is not None, tell=screen.stopping) as stop,
        lock.held(folder.path, names.LOCK) if alone else nullcontext(),
    ):
        ended = _train(job, ready, folder, screen, stop, group=group, pulse=pulse)
    distributed.leave()
    return ended


def _launch(
    job: Job, ready: Ready, folder: RunFolder, screen: Screen, stop: Stop, *, overwrite: bool
) -> tuple[float, int | None]:
    if overwrite and claim.leads(ready.config):
        claim.clear(folder, screen)
    return launcher.run(job, folder, stop, lambda event: replay(event, screen, ready.plan))


def _train(
    job: Job,
    ready: Ready,
    folder: RunFolder,
    screen: Screen,
    stop: Stop,
    *,
    overwrite: bool = False,
    group: Group = ALONE,
    pulse: Pulse | None = None,
) -> tuple[float, int | None]:
    """Trains in this process, alone or as one of a group: seconds, and the signal that ended it."""
    with failures.out_of_memory(ready.resolved), failures.disk_full(folder):
        args = _sft_config(ready, folder)
        distributed.allow_fsdp_on_cpu(ready.config.distributed, ready.resolved.hardware.device)
        wrapped = _load_model(ready, job.base_folder, screen)
        if overwrite:
            claim.clear(folder, screen)
        if group.is_main:
            _write_facts(folder, ready, job, load.count(wrapped))
        group.barrier()
        watcher = ranks.watcher(job, folder, screen, stop, group)
        first_step = 0 if job.resume_from is None else checkpoint.step_of(job.resume_from)
        due = group.gather(_evaluation_is_due(ready, folder, first_step, args.eval_delay))[0]
        trainer = _build_trainer(ready, wrapped, args, watcher, evaluates_first=due)
        settings, device = ready.config.distributed, ready.resolved.hardware.device
        distributed.check_started(trainer.accelerator, settings, device)
        if pulse is not None:
            ranks.follow(trainer, pulse)
        screen.begin(ready.plan, load.count(wrapped), first_step)
        started = time.perf_counter()
        with failures.refused_pickle(job.resume_from):
            trainer.train(resume_from_checkpoint=job.resume_from and str(job.resume_from))
        seconds = time.perf_counter() - started
        screen.end()
        if trainer.cut_short or trainer.state.global_step < len(ready.plan):
            return seconds, group.highest(stop.number or 0) or None
        adapter.save(trainer, ready.config, ready.model_folder, folder, group)
    return seconds, None


def _hand_over(ready: Ready, result: Result) -> None:
    """How the run ended, and its report."""
    peak = launch_files.peak_memory_bytes(ready.config)
    signal_name = None if result.stopped_by is None else result.stopped_by.name
    handover.end(result.folder, result.seconds, signal_name, peak)


def describe(ready: Ready, command: list[str]) -> dict[str, Any]:
    """What `train --dry-run` prints: all settings in everyone's terms; nothing is loaded."""
    config = ready.config
    args = _sft_config(ready, RunFolder(Path(config.training.output)))
    lora = load.lora_config(config.lora).to_dict()
    place = launch_files.launch_folder(Path(config.training.output), config.distributed)
    files = launch_files.files(config, ready.resolved.hardware.device, place)
    return {
        "config": config.model_dump(mode="json"),
        "derived": ready.resolved.reasons,
        "num_steps": ready.plan.num_steps,
        "sft_config": args.to_dict(),
        "lora_config": {
            name: sorted(value) if isinstance(value, set) else value for name, value in lora.items()
        },
        "launch": {
            "command": launch_files.command(place) if launch_files.is_launched(config) else command,
            "files": {str(path): text for path, text in files.items()},
        },
    }


def _sft_config(ready: Ready, folder: RunFolder) -> Any:
    return sft_config(
        ready.config,
        ready.resolved.hardware.device,
        folder.checkpoints,
        evaluates=ready.prepared.eval is not None,
    )


def _base_folder(config: Config) -> Path:
    """The base with its weights; a hub id's are fetched here, before anything is compared."""
    settings = config.model
    return hub.model_folder(settings.name, settings.revision, with_code=settings.trust_remote_code)


def _load_model(ready: Ready, folder: Path, screen: Screen) -> Any:
    config, device = ready.config, ready.resolved.hardware.device
    attention = resolve.attention_of(config, ready.resolved.hardware, folder)
    with distributed.loading(config.distributed, config.model.dtype):
        base = load.load_base(config.model, folder, device, training=True, implementation=attention)
    partitioned = config.distributed.strategy is Strategy.ZERO3
    if partitioned:
        loss = Loss.CHUNKED if head.fits(base) else Loss.OWN
        screen.note("passes are not compared with chats alone: ZeRO-3 has divided the weights")
    else:
        own = attention == OWN and config.training.tokens_per_pass == 1
        loss = selfcheck.settle(base, together=not own)
    if loss is Loss.OWN:
        screen.note("the loss is taken from the model's own logits, which it scales or caps")
    head.install(base, loss)
    wrapped = load.add_adapter(base, config.lora, config.training.seed, partitioned=partitioned)
    if config.training.compile is True:
        screen.note(compiled.install(wrapped, device) or "norms are compiled")
    return wrapped


def _evaluation_is_due(ready: Ready, folder: RunFolder, step: int, delay: float) -> bool:
    """Before the first step, or where a stop has cut the evaluation short."""
    if ready.prepared.eval is None:
        return False
    regular = step % ready.config.training.eval_steps == 0 or step == len(ready.plan)
    if step > 0 and not (regular and step >= delay):
        return False
    return not any("eval_loss" in line and line["step"] == step for line in folder.read_metrics())


def _build_trainer(
    ready: Ready, wrapped: Any, args: Any, watcher: Watcher, *, evaluates_first: bool
) -> PlannedTrainer:
    evaluation = ready.prepared.eval
    trackers.set_environment(Path(args.output_dir).parent)
    return PlannedTrainer(
        model=wrapped,
        args=args,
        plan=ready.plan,
        train=ready.prepared.train,
        evaluation=evaluation,
        eval_plan=None if evaluation is None else evaluation_plan(ready.config, evaluation),
        log_entropy=ready.config.training.log_entropy,
        tokenizer=_load_tokenizer(ready),
        watcher=watcher,
        autocasts=own_autocast(ready.config),
        evaluates_first=evaluates_first,
    )


def _load_tokenizer(ready: Ready) -> Any:
    """Transformers' tokenizer, compared with ours on the first chats."""
    settings = ready.config.model
    found = load.load_tokenizer(ready.model_folder, trust_remote_code=settings.trust_remote_code)
    ours = masks.load(ready.model_folder, settings.name)
    texts = [ours.decode(row.ids) for row in islice(ready.prepared.train, NUM_COMPARED)]
    load.refuse_other_ids(found, texts, ours.encode(texts))
    masks.refuse_other_text(found, ours)
    return found


def _write_facts(folder: RunFolder, ready: Ready, job: Job, trainable: Trainable) -> None:
    folder.write_facts(
        ready.config,
        ready.resolved.reasons,
        ready.resolved.hardware,
        ready.prepared.stats,
        ready.prepared.certificate,
        ready.prepared.rejected,
        job.identity["base_weights"],
    )
    handover.start(folder, ready.plan, ready.prepared, job, trainable)


def _identity(ready: Ready, base_folder: Path) -> dict[str, Any]:
    weights = hub.weights_digest(base_folder)
    return resume.identity(ready.config, ready.plan, ready.prepared, weights)


def _result(folder: RunFolder, plan: Plan, stopped_by: int | None) -> Result:
    lines = list(folder.read_metrics())
    losses = [line["loss"] for line in lines if "loss" in line]
    found = outcome(lines)
    return Result(
        folder=folder,
        num_steps=plan.num_steps,
        first_loss=losses[0] if losses else float("nan"),
        last_loss=losses[-1] if losses else float("nan"),
        eval_loss=found.eval_last,
        seconds=found.seconds,
        stopped_by=None if stopped_by is None else signal.Signals(stopped_by),
        outcome=found,
    )
