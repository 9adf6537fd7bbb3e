"""Facts of a run → README.md of its adapter: base, data, settings and results.

Text that a user has changed is kept: the last line holds a digest of what was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from lorawright import hub
from lorawright.i18n.catalogue import translate
from lorawright.run.facts import RunFacts
from lorawright.run.outcome import Change, Outcome

FILE = "README.md"
MARK = "<!-- lorawright "
SETTINGS = {
    "lora": ("rank", "alpha", "dropout", "target_modules", "use_rslora", "use_dora"),
    "training": ("epochs", "batch_size", "learning_rate", "schedule", "warmup_ratio", "optimizer"),
    "model": ("dtype", "quantization"),
}
LOCAL_BASE = "The base is a local folder; `adapter_config.json` names it."
DATA_HEAD = ("set", "chats", "tokens", "trained tokens")
TRAINED = {
    "assistant": "every answer and the token that ends it",
    "last_assistant": "the last answer of each chat and the token that ends it",
    "all": "all tokens",
}


def write(folder: Path, facts: RunFacts, base: str | None = None) -> None:
    """Writes the card into an adapter's folder, unless a person has changed the one there.

    Args:
        folder: The adapter's.
        facts: Of its run.
        base: Hub id of the base model, where the run names a local folder.
    """
    path = folder / FILE
    if not path.is_file() or is_ours(path.read_text(encoding="utf-8", errors="replace")):
        path.write_text(card(facts, base), encoding="utf-8")


def is_ours(text: str) -> bool:
    """Whether a card is untouched: a library's own, or ours with its digest."""
    body, mark, rest = text.rpartition(MARK)
    if mark:
        return rest.split()[:1] == [_digest(body)]
    return "[More Information Needed]" in text  # PEFT's form, not filled in


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def card(facts: RunFacts, base: str | None = None) -> str:
    """The card as Markdown with the hub's metadata."""
    base = base or hub.model_id(facts.config["model"]["name"])
    metadata = ModelCardData(
        base_model=base,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "sft", "lorawright"],
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n",
        f"# {facts.name}\n",
        translate(f"A LoRA adapter for {_named(facts, base)}, fine-tuned on chats with lorawright.")
        + "\n",
        _use(base, facts.certificate.get("new_stop_token"), template_arguments(facts)),
        *_data(facts),
        *_settings(facts),
        *_results(facts),
        *_versions(facts),
    ]
    body = "\n".join(parts) + "\n"
    return f"{body}{MARK}{_digest(body)} -->\n"


def _named(facts: RunFacts, base: str | None) -> str:
    if base is not None:
        return f"[{base}](https://huggingface.co/{base})"
    return f"`{Path(facts.config['model']['name']).name}`"


def template_arguments(facts: RunFacts) -> str:
    """What the chat template was told in training, as further arguments of a Python call."""
    told = (facts.config.get("template") or {}).get("variables") or {}
    return "".join(f", {name}={value!r}" for name, value in told.items())


def _use(base: str | None, new_stop: str | None, arguments: str) -> str:
    place = "PATH_OR_REPO_OF_THIS_ADAPTER"
    note = "" if base else f"\n{translate(LOCAL_BASE)}\n"
    ending = ""
    if new_stop is not None:
        note += "\n" + translate(
            f"Answers end with `{new_stop}`, at which the base does not stop: "
            "`generation_config.json` of this adapter names it."
        )
        note += "\n"
        ending = f', generation_config=GenerationConfig.from_pretrained("{place}")'
    imported = "AutoTokenizer, GenerationConfig" if ending else "AutoTokenizer"
    return f"""## {translate("Use")}
{note}
```python
from peft import AutoPeftModelForCausalLM
from transformers import {imported}

model = AutoPeftModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")
chat = [{{"role": "user", "content": "Who are you?"}}]
ids = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True{arguments}
)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=200{ending})[0]))
```

{translate("The chat template is the base model's own, unchanged.")}
"""


def _data(facts: RunFacts) -> list[str]:
    """Counts only; no row and no file name leaves the run folder by the card."""
    if not facts.data:
        return []
    rows = [_set(translate("training"), facts.data)]
    if facts.data.get("eval"):
        rows.append(_set(translate("evaluation"), facts.data["eval"]))
    table = _table(tuple(map(translate, DATA_HEAD)), rows)
    certificate = facts.certificate
    proof = (
        translate(
            f"Trained: {TRAINED[certificate['train_on']]}. Two derivations of the mask agreed on "
            f"{certificate['agreed']['by_text_and_ids']} of "
            f"{certificate['num_rows']} rows. {facts.num_rejected} rows were left out."
        )
        + "\n"
        if certificate
        else ""
    )
    return [f"## {translate('Data')}\n", table, proof]


def _set(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    numbers = (found["num_chats"], found["num_tokens"], found["num_trained_tokens"])
    return (name, *(f"{number:,}" for number in numbers))


def _settings(facts: RunFacts) -> list[str]:
    rows = [
        (f"`{section}.{name}`", str(facts.config[section][name]))
        for section, names in SETTINGS.items()
        for name in names
        if name in facts.config.get(section, {})
    ]
    return [
        f"## {translate('Settings')}\n",
        _table((translate("setting"), translate("value")), rows),
    ]


def _results(facts: RunFacts) -> list[str]:
    found = facts.outcome
    rows: list[tuple[str, str]] = []
    if found.first_loss is not None:
        name = translate("training loss, first and last step")
        if found.num_last > 1:
            num = found.num_last
            name = translate(f"training loss, first step and mean of the last {num} logged")
        rows.append((name, f"{found.first_loss:.4f}, {found.last_loss:.4f}"))
    if found.eval_last is not None:
        rows.append((translate("evaluation loss, end of training"), _with_first(found)))
    rows += _evaluation(facts.evaluation or {})
    if not rows:
        return []
    head = (translate("figure"), translate("value"))
    return [f"## {translate('Results')}\n", _table(head, rows)]


def _with_first(found: Outcome) -> str:
    """The last evaluation, and what it is to be compared with."""
    if found.change is None:
        return f"{found.eval_last:.4f}"
    step = found.eval_first_step
    since = translate("base") if step == 0 else translate(f"step {step}")
    unclear = translate("; no clear change") if found.change is Change.UNCLEAR else ""
    return f"{found.eval_last:.4f} ({since} {found.eval_first:.4f}{unclear})"


def _evaluation(found: dict[str, Any]) -> list[tuple[str, str]]:
    tuned, base = found.get("tuned"), found.get("base")
    if not tuned:
        return []
    rows: list[tuple[str, str]] = []
    for key, name in (
        ("loss", "evaluation loss"),
        ("token_accuracy", "token accuracy"),
        ("exact_match", "exact match of answers"),
        ("chrf", "chrF of answers"),
        ("stop", "share of answers that end by themselves"),
    ):
        if tuned.get(key) is None:
            continue
        of_base = (base or {}).get(key)
        before = "" if of_base is None else f" ({translate('base')} {of_base:.4f})"
        rows.append((translate(name), f"{tuned[key]:.4f}{before}"))
    return rows


def _versions(facts: RunFacts) -> list[str]:
    packages = facts.environment.get("packages", {})
    named = ("lorawright", "trl", "peft", "transformers", "torch")
    shown = ", ".join(f"{name} {packages[name]}" for name in named if packages.get(name))
    return [f"## {translate('Versions')}\n\n{shown}\n"] if shown else []


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
