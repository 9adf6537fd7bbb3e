"""The trained adapter on disk: PEFT's layout, the tokenizer, the template unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lorawright import card, hub, run_facts
from lorawright.config.schema import Config
from lorawright.distributed import Group
from lorawright.run_folder import RunFolder
from lorawright.trainer import PlannedTrainer


def save(trainer: PlannedTrainer, config: Config, folder: RunFolder, group: Group) -> None:
    """adapter/: complete or absent, naming the base as the user names it."""
    work = folder.path / "adapter.tmp"
    if group.is_main:
        shutil.rmtree(work, ignore_errors=True)
    group.barrier()
    trainer.save_model(str(work))  # all processes: each may hold a part of the adapter
    group.barrier()
    if not group.is_main:
        return
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
    return str(path.resolve()) if path.exists() else name.removeprefix(hub.HUB)
