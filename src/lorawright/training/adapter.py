"""The trained adapter on disk: PEFT's layout, the tokenizer, the template unchanged."""

from __future__ import annotations

import json
from pathlib import Path

from lorawright import hub, masks
from lorawright.config.schema import Config
from lorawright.distributed.group import Group
from lorawright.run import card, facts, owned
from lorawright.run.files import TEMPORARY
from lorawright.run.folder import RunFolder
from lorawright.run.owned import Kind, Marker
from lorawright.training.trainer import PlannedTrainer


def save(
    trainer: PlannedTrainer, config: Config, base: Path, folder: RunFolder, group: Group
) -> None:
    """adapter/: complete or absent, naming the base as the user names it; `base`: its folder."""
    work = folder.adapter.with_name(folder.adapter.name + TEMPORARY)
    if group.is_main:
        owned.begin_work(folder.adapter, Marker(Kind.ADAPTER))
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
    _keep_card(folder.adapter, work)
    marks = masks.learn(masks.load(base, config.model.name))
    if marks.is_new_stop:
        masks.add_stop(base, work, marks.end_id)
    card.write(work, facts.read(folder.path))
    names = [name for name in owned.files_in(work) if name != owned.MARKER]
    proven = owned.digests(work, (name for name in names if name != card.FILE))
    replaced = owned.read(folder.adapter) or Marker(Kind.ADAPTER, _model_files(folder.adapter))
    owned.finish_work(work, folder.adapter, Marker(Kind.ADAPTER, tuple(names), proven), replaced)


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
