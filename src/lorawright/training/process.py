"""Run plan → trained adapter, in this process: alone, or as one of several.

base ─► adapter on it ─► trainer ─► steps, evaluations, checkpoints ─► adapter/
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lorawright import masks
from lorawright.config.schema import Strategy
from lorawright.distributed import agreement
from lorawright.distributed import group as processes
from lorawright.distributed.group import ALONE, Group
from lorawright.distributed.heartbeat import Heartbeat
from lorawright.distributed.signals import Stop, stop_on_signals
from lorawright.model import causal_lm, load, lora, selfcheck
from lorawright.model.logit_scaling import PLAIN
from lorawright.model.selfcheck import ModelCheck
from lorawright.plan import architecture, attention
from lorawright.plan.attention import Attention
from lorawright.plan.run_plan import RunPlan
from lorawright.run import checkpoint, lock, names
from lorawright.run.events import (
    Event,
    MetricsLogged,
    Noted,
    StopRequested,
    Tell,
    TrainingEnded,
    TrainingStarted,
)
from lorawright.run.folder import RunFolder
from lorawright.training import artifacts, claim, failures, trackers
from lorawright.training.sft_fields import own_autocast
from lorawright.training.trainer import PlannedTrainer, sft_config

NUM_COMPARED = 32  # chats that both tokenizers read before training


@dataclass(frozen=True, slots=True)
class Process:
    """A process that trains.

    Attributes:
        plan: What it trains.
        folder: The run's.
        tell: Takes what happens; silent on all ranks but 0.
        stop: Whether a signal has asked to stop.
        group: All processes of the run.
    """

    plan: RunPlan
    folder: RunFolder
    tell: Tell
    stop: Stop
    group: Group = ALONE

    def should_stop(self) -> bool:
        """The same answer in all processes, which must all ask."""
        return self.group.highest(self.stop.number or 0) > 0

    def record(self, event: Event) -> None:
        """Tells an event; lines of metrics are rank 0's, and go into the run folder first."""
        if isinstance(event, MetricsLogged):
            if not (self.group.is_main and {"loss", "eval_loss"} & event.line.keys()):
                return
            self.folder.append_metrics(event.line)
        self.tell(event)

    def seal(self, path: Path) -> None:
        """Makes a checkpoint count, once every process has written its part of it."""
        self.group.barrier()
        if self.group.is_main:
            facts = {"step": checkpoint.step_of(path), "belongs_to": self.plan.identity}
            checkpoint.seal(path, facts)
            num_kept = self.plan.config.training.keep_checkpoints
            checkpoint.keep_newest(self.folder.checkpoints, num_kept)
        self.group.barrier()  # none begins the next step before it counts


def train_rank(plan: RunPlan, tell: Tell, heartbeat: Heartbeat | None) -> int | None:
    """Trains as one of several processes, here or on another machine.

    Args:
        plan: As this machine's launcher has made it.
        tell: Takes what happens; silent on all ranks but 0.
        heartbeat: Told of all progress; None where no launcher of ours watches.

    Returns:
        The signal that ended the run early, or None.

    Raises:
        LorawrightError: The processes do not fit each other, or the run failed.
    """
    settings, device = plan.config.distributed, plan.settings.hardware.device
    group = processes.join(settings, device)
    plan = agreement.agree(plan, group)
    folder = RunFolder(Path(plan.config.training.output))
    alone = heartbeat is None and group.is_main  # with a launcher, that holds the lock
    with (
        stop_on_signals(patient=heartbeat is not None, tell=lambda: tell(StopRequested())) as stop,
        lock.held(folder.path, names.LOCK) if alone else nullcontext(),
    ):
        stopped_by = train(Process(plan, folder, tell, stop, group), heartbeat=heartbeat)
    processes.leave()
    return stopped_by


def train(
    process: Process, *, overwrite: bool = False, heartbeat: Heartbeat | None = None
) -> int | None:
    """Trains, and writes the adapter.

    Args:
        process: Alone or one of a group.
        overwrite: Whether a run that is there goes, once the model is loaded.
        heartbeat: Told of all progress.

    Returns:
        The signal that ended the run early, or None.
    """
    plan, folder, group = process.plan, process.folder, process.group
    settings, device = plan.config.distributed, plan.settings.hardware.device
    with failures.out_of_memory(plan.settings), failures.disk_full(folder):
        args = sft_args(plan)
        processes.allow_fsdp_on_cpu(settings, device)
        model, found = _load_model(plan, process.tell)
        if overwrite:
            claim.clear(folder, process.tell)
        trainable = lora.count(model)
        if group.is_main:
            artifacts.begin(folder, plan, trainable, found)
        group.barrier()
        first_step = 0 if plan.resume_from is None else checkpoint.step_of(plan.resume_from)
        due = group.gather(_evaluation_is_due(process, first_step, args.eval_delay))[0]
        trainer = _build_trainer(process, model, args, evaluates_first=due)
        processes.check_started(trainer.accelerator, settings, device)
        if heartbeat is not None:
            _follow(trainer, heartbeat)
        process.tell(
            TrainingStarted(
                len(plan.steps), first_step, trainable.num_trainable, trainable.num_total
            )
        )
        with failures.refused_pickle(plan.resume_from):
            trainer.train(resume_from_checkpoint=plan.resume_from and str(plan.resume_from))
        is_cut = trainer.cut_short or trainer.state.global_step < len(plan.steps)
        stopped_by = group.highest(process.stop.number or 0) if is_cut else None
        assert stopped_by != 0  # nothing else ends a run before its last step
        process.tell(TrainingEnded())
        if not is_cut:
            artifacts.save_adapter(trainer, plan, folder, group)
    return stopped_by


def sft_args(plan: RunPlan) -> Any:
    """The plan's settings as TRL's `SFTConfig`.

    Raises:
        ConfigError: TRL refuses a value.
    """
    return sft_config(
        plan.config,
        plan.settings.hardware.device,
        RunFolder(Path(plan.config.training.output)).checkpoints,
        evaluates=plan.chats.eval is not None,
    )


def _load_model(plan: RunPlan, tell: Tell) -> tuple[Any, dict[str, Any]]:
    """The base with its loss, compared with itself, and a new adapter on it; what was measured."""
    config, hardware = plan.config, plan.settings.hardware
    assert plan.base_folder is not None
    chosen = attention.of(config, hardware, plan.base_folder)
    with processes.loading(config.distributed, config.model.dtype):
        base = load.load_base(
            config.model, plan.base_folder, hardware.device, training=True, implementation=chosen
        )
    partitioned = config.distributed.strategy is Strategy.ZERO3
    if partitioned:
        check = ModelCheck(None if architecture.scaled_logits(base.config) else PLAIN)
        tell(Noted("passes are not compared with chats alone: ZeRO-3 has divided the weights"))
    else:
        alone = chosen is Attention.OWN and config.training.tokens_per_pass == 1
        check = selfcheck.verify(base, together=not alone)
    if check.scaling is None:
        tell(Noted("the loss is taken from the model's own logits, which it scales or caps"))
    causal_lm.install(base, check.scaling)
    model = lora.add_adapter(base, config.lora, config.training.seed, partitioned=partitioned)
    idle = [] if partitioned else selfcheck.unreached(model)
    if idle:
        names = ", ".join(idle[:3]) + (" …" if len(idle) > 3 else "")
        tell(Noted(f"{len(idle)} adapted layers are not called and learn nothing: {names}", True))
    return model, {**check.as_dict(), "measured": not partitioned, "not_called": idle}


def _evaluation_is_due(process: Process, step: int, delay: float) -> bool:
    """Before the first step, or where a stop has cut the evaluation short."""
    plan = process.plan
    if plan.chats.eval is None or step == 0:
        return plan.chats.eval is not None
    regular = step % plan.config.training.eval_steps == 0 or step == len(plan.steps)
    if not (regular and step >= delay):
        return False
    lines = process.folder.read_metrics()
    return not any("eval_loss" in line and line["step"] == step for line in lines)


def _build_trainer(
    process: Process, model: Any, args: Any, *, evaluates_first: bool
) -> PlannedTrainer:
    plan = process.plan
    trackers.set_environment(process.folder.path)
    return PlannedTrainer(
        model=model,
        args=args,
        plan=plan.steps,
        train=plan.chats.train,
        evaluation=plan.chats.eval,
        eval_plan=plan.evaluation_steps,
        log_entropy=plan.config.training.log_entropy,
        tokenizer=_load_tokenizer(plan),
        tell=process.record,
        should_stop=process.should_stop,
        on_saved=process.seal,
        autocasts=own_autocast(plan.config),
        evaluates_first=evaluates_first,
    )


def _load_tokenizer(plan: RunPlan) -> Any:
    """Transformers' tokenizer, compared with the plan's on the first chats."""
    trusted = plan.config.model.trust_remote_code
    found = load.load_tokenizer(plan.tokenizer_folder, trust_remote_code=trusted)
    texts = [plan.tokenizer.decode(row.ids) for row in islice(plan.chats.train, NUM_COMPARED)]
    load.refuse_other_ids(found, texts, plan.tokenizer.encode(texts))
    masks.refuse_other_text(found, plan.tokenizer)
    return found


def _follow(trainer: PlannedTrainer, heartbeat: Callable[[str], None]) -> None:
    """Notes where this process is, so that one that stands still can be named."""

    def forward(*_: Any) -> None:
        heartbeat(f"step {trainer.state.global_step + 1}: forward")

    def backward(*_: Any) -> None:
        heartbeat(f"step {trainer.state.global_step + 1}: backward")

    trainer.model.register_forward_pre_hook(forward)
    trainer.model.register_forward_hook(backward)
