"""One run: config → chats → plan → model → trainer → run folder.

result = train.run(load("config.yaml").config)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from lorawright import (
    card,
    chat,
    checkpoint,
    estimate,
    handover,
    hardware,
    hub,
    model,
    prepare,
    resume,
    run_facts,
)
from lorawright.config.schema import Config
from lorawright.errors import TrainError
from lorawright.model import Trainable
from lorawright.plan import Plan
from lorawright.prepare import Prepared
from lorawright.resolve import Resolved, resolve
from lorawright.run_folder import RunFolder
from lorawright.signals import stop_on_signals
from lorawright.trainer import PlannedTrainer, StepRecord, Watcher, sft_config

NUM_COMPARED = 32  # chats that both tokenizers read before training


class Start(StrEnum):
    """How a run begins."""

    NEW = "new"
    OVERWRITE = "overwrite"
    RESUME = "resume"
    RESUME_ANYWAY = "resume_anyway"


class Screen:
    """What a run tells while it goes on; the terminal overrides it, a library call stays silent."""

    def rows(self, num_rows: int) -> None: ...
    def prepared(self, prepared: Prepared) -> None: ...
    def planned(self, resolved: Resolved, plan: Plan) -> None: ...
    def begin(self, plan: Plan, trainable: Trainable, first_step: int) -> None: ...
    def step(self, number: int, record: StepRecord) -> None: ...
    def line(self, line: dict[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that is settled, before a model is loaded."""

    prepared: Prepared
    resolved: Resolved
    plan: Plan
    model_folder: Path  # at least tokenizer and config; weights may still be on the hub

    @property
    def config(self) -> Config:
        return self.resolved.config


@dataclass(frozen=True, slots=True)
class Result:
    """What came out.

    `stopped_by` is the signal that ended the run early, or None; the run can then be resumed.
    """

    folder: RunFolder
    num_steps: int
    first_loss: float
    last_loss: float
    eval_loss: float | None
    seconds: float
    stopped_by: signal.Signals | None


def get_ready(config: Config, screen: Screen) -> Ready:
    """Data, certificate, resolved settings and plan; no model yet."""
    prepared = prepare.run(config, progress=screen.rows)
    prepare.raise_errors(prepared)
    screen.prepared(prepared)
    folder = hub.tokenizer_folder(config.model.name, config.model.revision)
    longest = int(prepared.train.num_tokens_N.max())
    if prepared.eval is not None:
        longest = max(longest, int(prepared.eval.num_tokens_N.max()))
    resolved = resolve(config, hardware.detect(), folder, longest)
    plan = make_plan(resolved.config, prepared)
    screen.planned(resolved, plan)
    return Ready(prepared, resolved, plan, folder)


def make_plan(config: Config, prepared: Prepared) -> Plan:
    """The plan of a resolved config."""
    tokens_per_pass = config.training.tokens_per_pass
    assert isinstance(tokens_per_pass, int)
    return Plan(
        prepared.train.num_tokens_N,
        prepared.train.num_trained_N,
        batch_size=config.training.batch_size,
        num_epochs=config.training.epochs,
        seed=config.data.seed,
        tokens_per_pass=tokens_per_pass,
        max_steps=config.training.max_steps,
    )


def estimate_seconds(ready: Ready, num_tokens: int, num_trained_tokens: int) -> float | None:
    """Time of the whole run, from one measured matrix product; None for unknown sizes."""
    shape = estimate.read_shape(ready.model_folder)
    if shape is None:
        return None
    training = ready.config.training
    assert isinstance(training.tokens_per_pass, int)
    flops = estimate.product_flops(
        shape,
        num_tokens=num_tokens,
        num_trained_tokens=num_trained_tokens,
        checkpointing=training.gradient_checkpointing is True,
    )
    speed = hardware.measure_flops(
        ready.resolved.hardware.device,
        str(ready.config.model.dtype),
        min(training.tokens_per_pass, 2048),
        shape.hidden,
        shape.ffn,
    )
    return estimate.TIME_OVER_PRODUCTS * flops / speed


def run(config: Config, *, start: Start = Start.NEW, screen: Screen | None = None) -> Result:
    """Fine-tunes once.

    Args:
        config: As loaded; `auto` is settled here.
        start: Begin, begin anew, or go on from the newest complete checkpoint.
        screen: Told of everything; silent by default.

    Raises:
        LorawrightError: With an address and a hint, whatever was wrong.
    """
    screen = screen or Screen()
    folder = RunFolder(Path(config.training.output))
    if start is Start.NEW:
        folder.refuse_if_taken()
    ready = get_ready(config, screen)
    args = _sft_config(ready, folder)
    base_folder = _base_folder(ready.config)
    identity = _identity(ready, base_folder)
    resume_from = _resume_point(folder, identity, start, screen)
    wrapped = _load_model(ready, base_folder)
    if start is Start.OVERWRITE:
        folder.clear()
    with stop_on_signals() as stop, _removed_on_error(folder), _out_of_memory(ready):
        _write_facts(folder, ready, identity, model.count(wrapped))
        watcher = Watcher(
            on_log=lambda line: _log(folder, screen, line),
            on_step=screen.step,
            on_saved=lambda path: _saved(path, ready, folder, identity),
            should_stop=stop,
        )
        trainer = _build_trainer(ready, wrapped, args, watcher)
        first_step = 0 if resume_from is None else checkpoint.step_of(resume_from)
        screen.begin(ready.plan, model.count(wrapped), first_step)
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        seconds = time.perf_counter() - started
        screen.end()
        if not stop():
            _save_adapter(trainer, ready.config, folder)
    result = _result(folder, ready.plan, seconds, stop.number)
    handover.end(folder, seconds, None if result.stopped_by is None else result.stopped_by.name)
    return result


def describe(ready: Ready, command: list[str]) -> dict[str, Any]:
    """What `train --dry-run` prints: all settings in everyone's terms; nothing is loaded."""
    config = ready.config
    args = _sft_config(ready, RunFolder(Path(config.training.output)))
    adapter = model.lora_config(config.lora).to_dict()
    return {
        "config": config.model_dump(mode="json"),
        "derived": ready.resolved.reasons,
        "num_steps": ready.plan.num_steps,
        "sft_config": args.to_dict(),
        "lora_config": {
            name: sorted(value) if isinstance(value, set) else value
            for name, value in adapter.items()
        },
        "launch": {"command": command, "files": {}},
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


def _load_model(ready: Ready, folder: Path) -> Any:
    config, device = ready.config, ready.resolved.hardware.device
    base = model.load_base(config.model, folder, device, training=True)
    return model.add_adapter(base, config.lora, config.training.seed)


def _build_trainer(ready: Ready, wrapped: Any, args: Any, watcher: Watcher) -> PlannedTrainer:
    tensorboard = Path(args.output_dir).with_name("tensorboard")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(tensorboard)  # its callback's only way in
    return PlannedTrainer(
        model=wrapped,
        args=args,
        plan=ready.plan,
        train=ready.prepared.train,
        evaluation=ready.prepared.eval,
        tokenizer=_load_tokenizer(ready),
        watcher=watcher,
    )


def _load_tokenizer(ready: Ready) -> Any:
    """Transformers' tokenizer, compared with ours on the first chats."""
    settings = ready.config.model
    found = model.load_tokenizer(ready.model_folder, trust_remote_code=settings.trust_remote_code)
    ours = chat.load(ready.model_folder, settings.name)
    texts = [ours.decode(row.ids) for row in islice(ready.prepared.train, NUM_COMPARED)]
    model.refuse_other_ids(found, texts, ours.encode(texts))
    return found


def _write_facts(
    folder: RunFolder, ready: Ready, identity: dict[str, Any], trainable: Trainable
) -> None:
    folder.write_facts(
        ready.config,
        ready.resolved.reasons,
        ready.resolved.hardware,
        ready.prepared.stats,
        ready.prepared.certificate,
        ready.prepared.rejected,
        identity["base_weights"],
    )
    handover.start(
        folder, ready.resolved, ready.plan, ready.prepared, ready.model_folder, trainable
    )


def _log(folder: RunFolder, screen: Screen, line: dict[str, float]) -> None:
    if "loss" in line or "eval_loss" in line:
        folder.append_metrics(line)
        screen.line(line)


def _saved(path: Path, ready: Ready, folder: RunFolder, identity: dict[str, Any]) -> None:
    checkpoint.seal(path, {"step": checkpoint.step_of(path), "belongs_to": identity})
    checkpoint.keep_newest(folder.checkpoints, ready.config.training.keep_checkpoints)


def _identity(ready: Ready, base_folder: Path) -> dict[str, Any]:
    weights = hub.weights_digest(base_folder)
    return resume.identity(ready.config, ready.plan, ready.prepared, weights)


def _resume_point(
    folder: RunFolder, identity: dict[str, Any], start: Start, screen: Screen
) -> Path | None:
    """The checkpoint to go on from; makes the run's metrics end there."""
    if start not in (Start.RESUME, Start.RESUME_ANYWAY):
        return None
    anyway = start is Start.RESUME_ANYWAY
    latest, notes = resume.find(folder, identity, anyway=anyway)
    for text in notes:
        screen.note(text)
    folder.rewind_metrics(0 if latest is None else checkpoint.step_of(latest))
    return latest


@contextmanager
def _removed_on_error(folder: RunFolder) -> Iterator[None]:
    """A run that fails before its first checkpoint or metric leaves no folder behind."""
    existed = folder.holds_a_run()
    try:
        yield
    except BaseException:  # whatever ends it, Ctrl-C included; raised again below
        if not existed and not folder.metrics.exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@contextmanager
def _out_of_memory(ready: Ready) -> Iterator[None]:
    """Turns the allocators' errors into the setting to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _memory_error(ready, error) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise _memory_error(ready, error) from error


def _memory_error(ready: Ready, error: Exception) -> TrainError:
    training, memory = ready.config.training, ready.resolved.memory
    estimate = "" if memory is None else f"; the estimate was {memory.total / 1e9:.1f} GB"
    lower = (
        f"lower `training.tokens_per_pass` (now {training.tokens_per_pass}); results stay the same"
        if training.gradient_checkpointing
        else "set `training.gradient_checkpointing: true`, or lower `training.tokens_per_pass` "
        f"(now {training.tokens_per_pass}); results stay the same"
    )
    return TrainError(f"out of memory{estimate}", where=str(error).split("\n")[0][:120], hint=lower)


def _save_adapter(trainer: PlannedTrainer, config: Config, folder: RunFolder) -> None:
    """adapter/: complete or absent, naming the base as the user names it."""
    work = folder.path / "adapter.tmp"
    shutil.rmtree(work, ignore_errors=True)
    trainer.save_model(str(work))
    (work / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing here reads it
    settings = json.loads((work / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base_name(config.model.name)
    settings["revision"] = config.model.revision
    (work / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    card.write(work, run_facts.read(folder.path))
    shutil.rmtree(folder.adapter, ignore_errors=True)
    work.rename(folder.adapter)


def base_name(name: str) -> str:
    """How an adapter names its base: a hub id as it is, a folder by its whole path."""
    if name == hub.TINY:
        return str(hub.model_folder(name))
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _result(folder: RunFolder, plan: Plan, seconds: float, stopped_by: int | None) -> Result:
    lines = list(folder.read_metrics())
    losses = [line["loss"] for line in lines if "loss" in line]
    evals = [line["eval_loss"] for line in lines if "eval_loss" in line]
    return Result(
        folder=folder,
        num_steps=plan.num_steps,
        first_loss=losses[0] if losses else float("nan"),
        last_loss=losses[-1] if losses else float("nan"),
        eval_loss=evals[-1] if evals else None,
        seconds=seconds,
        stopped_by=None if stopped_by is None else signal.Signals(stopped_by),
    )
