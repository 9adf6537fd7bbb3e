"""config → a folder with a plain TRL script that does the same run without lorawright.

    train.py   requirements.txt   data/*.jsonl   chat_template.jinja   (launch files)

The chats are written as they were read, with the model's template in generation tags, if every one
of them encodes to lorawright's ids and masks that way; else as ids and labels, and it says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import jinja2
import orjson

from lorawright import data, masks
from lorawright.config.schema import Config, Dtype, Quantization
from lorawright.dataset.store import ChatStore
from lorawright.errors import ConfigError, RunFolderError
from lorawright.model import load, lora
from lorawright.plan import adapted, run_plan
from lorawright.plan.run_plan import RunPlan
from lorawright.plan.settings import Settings
from lorawright.run import owned
from lorawright.run.environment import installed_versions
from lorawright.run.events import silent
from lorawright.run.owned import Kind, Marker
from lorawright.training import artifacts, failures, sft_fields, train
from lorawright.types import Conversation, EncodedChat, Split

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")
TEMPLATE = "chat_template.jinja"
OWN_COLLATOR = {
    "remove_unused_columns": False,
    "dataset_kwargs": {"skip_prepare_dataset": True},
}
"""SFTConfig's fields for rows that hold several sequences."""


class Form(StrEnum):
    """How the data is written."""

    CHATS = "chats"  # messages, encoded by the script
    IDS = "ids"  # token ids and labels
    SEQUENCES = "sequences"  # the same, of chats that are several sequences


@dataclass(frozen=True, slots=True)
class Ejected:
    """What was written.

    Attributes:
        folder: Where.
        command: What starts the script.
        form: How the data is written.
        reason: Why it is ids; None for chats.
        files: Names in the folder.
    """

    folder: Path
    command: str
    form: Form
    reason: str | None
    files: tuple[str, ...]


def eject(config: Config, source: str, folder: Path) -> Ejected:
    """Writes the folder.

    Args:
        config: As loaded; `auto` is settled for this machine.
        source: The config's name, for the script's first line.
        folder: Must not exist, or be empty.

    Raises:
        LorawrightError: The data, the config or the folder is wrong.
    """
    empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    if os.path.lexists(folder) and not empty:
        raise RunFolderError("is not empty", where=str(folder), hint="name another: `--out DIR`")
    plan = run_plan.make(config, silent)
    _refuse_uneven(plan.config)
    tokenizer = plan.tokenizer
    template = masks.tagged(tokenizer, masks.learn(tokenizer))
    reason = _first_difference(plan, template)
    form = _form(plan, reason)
    launch: dict[str, str] = train.describe(plan, [])["launch"]["files"]
    command = _command(launch)
    texts = {
        **launch,
        **({TEMPLATE: template} if form is Form.CHATS else {}),
        "train.py": _script(plan, source, form, command),
        "requirements.txt": _requirements(plan.config),
    }
    with failures.unwritable(folder):
        _write(plan, form, texts, folder)
    names = tuple(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
    return Ejected(folder, command, form, reason, names)


def _form(plan: RunPlan, reason: str | None) -> Form:
    if reason is None:
        return Form.CHATS
    stores = [_store(plan, split) for split in _splits(plan)]
    return Form.IDS if all(len(s) == s.num_chats for s in stores) else Form.SEQUENCES


def _write(plan: RunPlan, form: Form, texts: dict[str, str], folder: Path) -> None:
    """The folder's files, all of them or none."""
    data_names = [f"data/{split}.jsonl" for split in _splits(plan)]
    work = owned.begin_work(folder, Marker(Kind.SCRIPT, (*data_names, *texts)))
    try:
        _write_data(plan, form, work / "data")
        for name, text in texts.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text, encoding="utf-8")
        owned.remove_empty([folder])
        owned.finish_work(work, folder, None)
    finally:
        owned.drop_work(work)


def _refuse_uneven(config: Config) -> None:
    processes = config.distributed.num_processes
    assert isinstance(processes, int)
    if config.training.batch_size % processes:
        raise ConfigError(
            f"is {config.training.batch_size}, which {processes} processes cannot share equally; "
            "TRL gives each process as many chats",
            where="training.batch_size",
            hint="choose a multiple of `distributed.num_processes`",
        )


def _pairs(plan: RunPlan, split: Split) -> Iterator[tuple[Conversation, EncodedChat]]:
    """Chats as read beside the same as encoded, in the store's order; each one sequence."""
    store = plan.chats.train if split is Split.TRAIN else plan.chats.eval
    encoded = iter(store or ())
    waiting = next(encoded, None)
    for item in data.Reader(plan.config.data):
        if waiting is None:
            return
        same = isinstance(item, Conversation) and (item.split, item.file, item.line) == (
            split,
            waiting.file,
            waiting.line,
        )
        if same and isinstance(item, Conversation):
            yield item, waiting
            waiting = next(encoded, None)


def _first_difference(plan: RunPlan, template: str) -> str | None:
    """Where the script's own encoding would differ from what lorawright trains; None: nowhere."""
    settings = plan.config.model
    told = sorted(plan.config.template.variables)
    if told or plan.tokenizer.template_date is not None:
        what = ", ".join(told) or "the date"
        return f"the chat template is told {what}, which the script would not tell it"
    theirs = load.load_tokenizer(
        plan.tokenizer_folder, trust_remote_code=settings.trust_remote_code
    )
    for split in _splits(plan):
        first = next((one for one in _store(plan, split) if one.num_sequences > 1), None)
        if first is not None:
            return (
                f"{first.file}:{first.line} is {first.num_sequences} sequences: this template "
                "renders earlier answers otherwise than the newest"
            )
        num_seen = 0
        for conversation, encoded in _pairs(plan, split):
            num_seen += 1
            if conversation.variables:
                return f"{conversation.where} has `chat_template_kwargs` of its own"
            row = _row(conversation)
            try:
                found = theirs.apply_chat_template(
                    row["messages"],
                    tools=row.get("tools"),
                    chat_template=template,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
            except (jinja2.TemplateError, TypeError, ValueError) as error:
                return f"{conversation.where}: the template with tags fails: {error}"
            if found["input_ids"] != list(encoded.ids):
                return f"{conversation.where} has other ids that way (cut, escaped, or kept apart)"
            if found["assistant_masks"] != encoded.trained_flags():
                return (
                    f"{conversation.where} is trained elsewhere (`data.train_on`, `train: false`)"
                )
        if num_seen != len(_store(plan, split)):
            return "the rows are not read in the order they are trained in"
    return None


def _splits(plan: RunPlan) -> list[Split]:
    return [Split.TRAIN] if plan.chats.eval is None else [Split.TRAIN, Split.EVAL]


def _store(plan: RunPlan, split: Split) -> ChatStore:
    store = plan.chats.train if split is Split.TRAIN else plan.chats.eval
    assert store is not None
    return store


def _row(conversation: Conversation) -> dict[str, Any]:
    row: dict[str, Any] = {"messages": [m.for_template() for m in conversation.messages]}
    if conversation.tools:
        row["tools"] = [dict(tool) for tool in conversation.tools]
    return row


def _write_data(plan: RunPlan, form: Form, folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in _splits(plan):
        with open(folder / f"{split}.jsonl", "wb") as file:
            if form is Form.CHATS:
                rows: Iterator[dict[str, Any]] = (
                    _row(conversation) for conversation, _ in _pairs(plan, split)
                )
            elif form is Form.IDS:
                rows = (_labelled(encoded) for encoded in _store(plan, split))
            else:
                rows = _several(_store(plan, split))
            file.writelines(orjson.dumps(row) + b"\n" for row in rows)


def _labelled(encoded: EncodedChat) -> dict[str, Any]:
    flags = zip(encoded.ids, encoded.trained_flags(), strict=True)
    return {"input_ids": encoded.ids, "labels": [i if trained else -100 for i, trained in flags]}


def _several(store: ChatStore) -> Iterator[dict[str, Any]]:
    """A chat a row, with all its sequences."""
    for start in store.starts_C.tolist():
        numbers = range(start, start + store[start].num_sequences)
        yield {"sequences": [_labelled(store[number]) for number in numbers]}


def _command(launch: dict[str, str]) -> str:
    accelerate = next((name for name in launch if Path(name).name == "accelerate.yaml"), None)
    if accelerate is None:
        return "python train.py"
    return f"accelerate launch --config_file {accelerate} train.py"


def _script(plan: RunPlan, source: str, form: Form, command: str) -> str:
    config = plan.config
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lorawright", "assets/eject"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # a Python script; values go through repr
    )
    environment.filters["repr"] = _literal
    num_chats = plan.chats.train.num_chats
    return environment.get_template("train.py.jinja").render(
        source=Path(source).name,
        command=command,
        form=str(form),
        model={**config.model.model_dump(mode="json"), "name": _plain(config.model.name)},
        base=artifacts.base_name(config.model.name),
        quantization=load.quantization_fields(config.model),
        data_seed=config.data.seed,
        seed=config.training.seed,
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        num_chats=num_chats,
        uneven=num_chats % config.training.batch_size and config.training.epochs > 1,
        evaluates=plan.chats.eval is not None,
        sft={
            **_sft(plan.settings, evaluates=plan.chats.eval is not None),
            **(OWN_COLLATOR if form is Form.SEQUENCES else {}),
        },
        lora=_lora(plan),
    )


def _lora(plan: RunPlan) -> dict[str, Any]:
    """Fields of LoraConfig: names as PEFT takes them in this family, and no more than is needed."""
    settings, trust = plan.config.lora, plan.config.model.trust_remote_code
    base = adapted.skeleton(plan.tokenizer_folder, trust_remote_code=trust)
    fields = lora.lora_fields(settings) if base is None else lora.fields_for(base, settings)
    unneeded = {"target_parameters": None, "exclude_modules": None, "fan_in_fan_out": False}
    return {
        name: value
        for name, value in fields.items()
        if name not in unneeded or value != unneeded[name]
    }


def _literal(value: Any) -> str:
    """A value as Python source, strings in double quotes."""
    if isinstance(value, str):
        return orjson.dumps(value).decode()
    if isinstance(value, dict):
        items = ", ".join(f"{_literal(name)}: {_literal(item)}" for name, item in value.items())
        return f"{{{items}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _plain(name: str) -> str:
    """A name that cannot end the script's docstring."""
    return name.replace("\\", "/").replace('"', "'")


def _sft(settings: Settings, *, evaluates: bool) -> dict[str, Any]:
    """SFTConfig's fields, all numbers settled."""
    config, training = settings.config, settings.config.training
    processes = config.distributed.num_processes
    assert isinstance(processes, int)
    fields: dict[str, Any] = {
        "output_dir": "output",
        **sft_fields.shared(config, settings.hardware.device),
        "gradient_accumulation_steps": training.batch_size // processes,
        "train_sampling_strategy": "sequential",
        "save_total_limit": training.keep_checkpoints,
        "report_to": list(training.trackers) or "none",
        "bf16": config.model.dtype is Dtype.BFLOAT16,
    }
    if training.max_steps is not None:
        fields["max_steps"] = training.max_steps
    if evaluates:
        fields |= {"eval_strategy": "steps", "eval_steps": training.eval_steps}
    return fields | training.trl


def _requirements(config: Config) -> str:
    """The versions of this environment; a build such as +cpu is left to pip."""
    names = [*PACKAGES, *config.training.trackers]
    if config.model.quantization is not Quantization.NONE or "bit" in config.training.optimizer:
        names.append("bitsandbytes")
    versions = installed_versions()
    lines = []
    for name in names:
        version = versions.get(name)
        lines.append(name if version is None else f"{name}=={version.split('+')[0]}")
    return "\n".join(lines) + "\n"
