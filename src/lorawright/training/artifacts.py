"""Run plan and trained model → what a run writes: facts, adapter, model card, report.

config.yaml  environment.json  certificate.json  plan.json  rows.json     begin
adapter/                                                                  save_adapter
result.json  report.html                                                  end
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from lorawright import hub, masks, report
from lorawright.config.schema import Config
from lorawright.distributed.group import Group
from lorawright.masks import view
from lorawright.model.lora import Trainable
from lorawright.plan.run_plan import RunPlan
from lorawright.run import card, facts, owned
from lorawright.run.files import TEMPORARY, write_atomically
from lorawright.run.folder import RunFolder
from lorawright.run.owned import Kind, Marker
from lorawright.training.trainer import PlannedTrainer
from lorawright.types import EncodedChat

NUM_ROWS = 4  # chats kept for the report
MOST_ROW_TOKENS = 600  # longer ones are passed over where shorter ones exist
NUM_BINS = 32  # of the histogram of lengths


def begin(run: RunFolder, plan: RunPlan, trainable: Trainable, model: dict[str, Any]) -> None:
    """Writes what is known before the first step, so that a report needs no data and no model.

    Args:
        run: Its folder.
        plan: The run's.
        trainable: How much of the model is trained.
        model: What was measured of the loaded model.
    """
    settings, chats = plan.settings, plan.chats
    run.write_facts(
        plan.config,
        settings.reasons,
        settings.hardware,
        chats.stats,
        {**chats.certificate, "model": model},
        chats.rejected,
        plan.identity["base_weights"],
    )
    memory = settings.memory
    _write(
        run.path / facts.PLAN,
        {
            "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "num_steps": plan.steps.num_steps,
            "steps_per_epoch": plan.steps.steps_per_epoch,
            "num_trainable": trainable.num_trainable,
            "num_parameters": trainable.num_total,
            "resume_command": plan.resume_command,
            "reasons": settings.reasons,
            "memory": None if memory is None else {**asdict(memory), "total": memory.total},
            "lengths": {
                "train": _histogram(chats.train.num_tokens_N),
                "eval": None if chats.eval is None else _histogram(chats.eval.num_tokens_N),
            },
        },
    )
    rows = [_row(plan.tokenizer, chat) for chat in choose(chats.train)]
    _write(run.path / facts.ROWS, {"rows": rows})


def end(
    run: RunFolder, seconds: float, stopped_by: str | None, peak_memory_bytes: int | None
) -> None:
    """Writes how a run ended, and its report.

    Args:
        run: Its folder.
        seconds: Of all sittings.
        stopped_by: Name of the signal that ended it early.
        peak_memory_bytes: Of this process; None where others trained.
    """
    content = {
        "seconds": seconds,
        "stopped_by": stopped_by,
        "peak_memory_bytes": peak_memory_bytes,
    }
    _write(run.path / facts.RESULT, content)
    report.write(run.path, report.own_language())


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _row(tokenizer: masks.ChatTokenizer, chat: EncodedChat) -> dict[str, Any]:
    return {
        "file": chat.file,
        "line": chat.line,
        "num_tokens": len(chat.ids),
        "num_trained_tokens": chat.num_trained_tokens,
        "glyphs": [(one.ids, one.text, one.trained) for one in view.token_texts(tokenizer, chat)],
    }


def choose(chats: Iterable[EncodedChat], num_looked_at: int = 200) -> list[EncodedChat]:
    """A few chats to show: of the first, those with most answers, none too long to read."""
    seen = [chat for _, chat in zip(range(num_looked_at), chats, strict=False)]
    readable = [chat for chat in seen if len(chat.ids) <= MOST_ROW_TOKENS]
    if not readable:
        return sorted(seen, key=lambda chat: len(chat.ids))[:1]
    by_answers = sorted(readable, key=lambda chat: -len(chat.spans))
    kept = [*by_answers[: NUM_ROWS // 2], *readable]
    return list(dict.fromkeys(kept))[:NUM_ROWS]


def _histogram(num_tokens_N: npt.NDArray[np.int64]) -> dict[str, list[int]]:
    """Chats by length: the upper edge of each bin in tokens, and how many are in it."""
    longest = int(num_tokens_N.max(initial=1))
    width = max(1, -(-longest // NUM_BINS))
    counts = np.bincount((num_tokens_N - 1).clip(0) // width)
    return {"upto": [(i + 1) * width for i in range(len(counts))], "num": counts.tolist()}


def save_adapter(trainer: PlannedTrainer, plan: RunPlan, run: RunFolder, group: Group) -> None:
    """Writes adapter/, complete or absent: PEFT's layout, the tokenizer, the template unchanged.

    Called by all processes of a group: each may hold a part of the adapter.
    """
    work = run.adapter.with_name(run.adapter.name + TEMPORARY)
    if group.is_main:
        owned.begin_work(run.adapter, Marker(Kind.ADAPTER))
    group.barrier()
    trainer.save_model(str(work))
    group.barrier()
    if not group.is_main:
        return
    (work / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing here reads it
    _name_base(work / "adapter_config.json", plan.config)
    _keep_card(run.adapter, work)
    marks = masks.learn(plan.tokenizer)
    if marks.is_new_stop:
        masks.add_stop(plan.tokenizer_folder, work, marks.end_id)
    card.write(work, facts.read(run.path))
    names = [name for name in owned.files_in(work) if name != owned.MARKER]
    proven = owned.digests(work, (name for name in names if name != card.FILE))
    replaced = owned.read(run.adapter) or Marker(Kind.ADAPTER, _model_files(run.adapter))
    owned.finish_work(work, run.adapter, Marker(Kind.ADAPTER, tuple(names), proven), replaced)


def _name_base(path: Path, config: Config) -> None:
    """adapter_config.json names the base as the user names it."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base_name(config.model.name)
    settings["revision"] = config.model.revision
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _model_files(adapter: Path) -> tuple[str, ...]:
    """What a version without markers wrote."""
    return tuple(name for name in owned.files_in(adapter) if owned.MODEL_FILE.fullmatch(name))


def _keep_card(before: Path, work: Path) -> None:
    """A card that a person has changed stays."""
    old = before / card.FILE
    if old.is_file() and not card.is_ours(old.read_text(encoding="utf-8", errors="replace")):
        (work / card.FILE).write_bytes(old.read_bytes())


def base_name(name: str) -> str:
    """How an adapter names its base: a hub id as it is, a folder by its whole path."""
    if name == hub.TINY:
        return str(hub.model_folder(name))
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name.removeprefix(hub.HUB)
