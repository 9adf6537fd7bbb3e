"""A run → whether vLLM takes its adapter as it is, and the commands that serve it.

vLLM's rules stand in its own code: `vllm/lora/peft_helper.py` (features of an adapter),
`vllm/config/lora.py` (ranks), `vllm/lora/lora_model.py` (names: those of the model's linear layers,
each that is packed by its parts in `packed_modules_mapping` of the model's class). An adapter that
breaks one is served as a merged folder.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError, safe_open

from lorawright import hub, masks
from lorawright.config.schema import Config
from lorawright.errors import ModelError
from lorawright.exporters import merge
from lorawright.exporters.merged_weights import ADAPTER
from lorawright.model import tuned
from lorawright.run.files import write_atomically
from lorawright.run.folder import RunFolder
from lorawright.training import failures

RESULT = "export-vllm.json"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank; a lower rank takes the next
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names that vLLM's decoders take, also where it packs them."""

MORE_MODULES = {
    "Phi3ForCausalLM": ("qkv_proj", "gate_up_proj"),
    "Starcoder2ForCausalLM": ("c_fc", "c_proj"),
    "Lfm2ForCausalLM": ("w1", "w2", "w3", "in_proj", "out_proj"),
}
"""Architecture → further names: Phi-3 and LFM2 pack each by itself (models/phi3.py, lfm2.py), the
modules of StarCoder2 are Transformers' own. GLM-4's `gate_up_proj` is none: vLLM expects its parts,
`gate_proj` and `up_proj`, which the adapter does not have apart (models/glm4.py)."""

NO_ADAPTERS = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Arctic", "Bloom", "Dbrx", "DeepseekV4", "ExaoneMoe", "Falcon", "FalconMamba", "FlexOlmo",
        "GPTJ", "GPTNeoX", "Gemma3n", "Jais2", "Mamba", "Mamba2", "Mellum", "Mpt", "Olmoe",
        "StableLm", "Zamba2",
    )
) | {"GPT2LMHeadModel"}  # fmt: skip
"""Architectures without LoRA in vLLM's docs/models/supported_models.md, of 2026."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, and what the adapter has."""

    rule: str
    ok: bool
    found: str


def run(folder: RunFolder, config: Config) -> dict[str, Any]:
    """Checks adapter and merged folder; writes `export-vllm.json`.

    Returns:
        Checks and commands; without a merged folder its command is None.

    Raises:
        LorawrightError: The run has no adapter, or its base is another.
    """
    with failures.results_into(folder, "export"):
        return _run(folder, config)


def _run(folder: RunFolder, config: Config) -> dict[str, Any]:
    model = config.model
    files = tuned.find(folder, model)
    base, adapter = files.base, files.adapter
    checks = check(adapter, _architecture(base))
    ok = all(one.ok for one in checks)
    proof = folder.read_json(merge.RESULT)
    merged = None if proof is None or not Path(proof["path"]).is_dir() else proof
    name = folder.path.resolve().name
    served = str(base) if model.name == hub.TINY else model.name
    told = _variables(config)
    options = _plain_template(folder, base, model.name) + _new_stop(folder, base, model.name) + told
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    found = {
        "path": str(adapter),
        "ok": ok,
        "checks": [asdict(one) for one in checks],
        "commands": {
            "adapter": _serve_adapter(served, adapter, name, settings["r"]) + options
            if ok
            else None,
            "merged": None if merged is None else _serve(merged["path"], name) + told,
        },
        **{
            key: None if merged is None else merged[key]
            for key in ("max_kl", "mean_kl", "top1_agreement")
        },
    }
    failures.write_result(folder, RESULT, found)
    return found


def _plain_template(folder: RunFolder, base: Path, name: str) -> str:
    """An option, where the base's own template has tags that vLLM cannot read."""
    template = masks.load(base, name).template
    if masks.plain(template) == template:
        return ""
    path = folder.path / "vllm" / "chat_template.jinja"
    with failures.unwritable(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, masks.plain(template).encode())
    return f" --chat-template {shlex.quote(str(path))}"


def _variables(config: Config) -> str:
    """An option, where the chat template was told something in training."""
    told = config.template.variables
    if not told:
        return ""
    return f" --default-chat-template-kwargs {shlex.quote(orjson.dumps(told).decode())}"


def _new_stop(folder: RunFolder, base: Path, name: str) -> str:
    """An option, where the base's own generation config does not stop at the end of answers."""
    marks = masks.learn(masks.load(base, name))
    if not marks.is_new_stop:
        return ""
    path = folder.path / "vllm"
    path.mkdir(exist_ok=True)
    masks.add_stop(base, path, marks.end_id)
    return f" --generation-config {shlex.quote(str(path))}"


def refuse_unservable(found: dict[str, Any]) -> None:
    """Raises ModelError where neither the adapter nor a merged folder can be served."""
    if found["ok"] or found["commands"]["merged"]:
        return
    broken = next(one for one in found["checks"] if not one["ok"])
    raise ModelError(
        f"vLLM does not take this adapter: {broken['rule']}, got {broken['found']}",
        where=found["path"],
        hint="`lorawright merge RUN` first; vLLM serves the merged folder",
    )


def _architecture(base: Path) -> str:
    """The class that a base's config.json names, as vLLM looks for it."""
    found = json.loads((base / "config.json").read_bytes()).get("architectures") or [""]
    return str(found[0])


def check(adapter: Path, architecture: str = "") -> list[Check]:
    """vLLM's rules, one by one.

    Args:
        adapter: Its folder.
        architecture: The base's, as in its config.json.

    Raises:
        ModelError: Its file is damaged.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    try:
        with safe_open(adapter / ADAPTER, framework="numpy") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cannot be read: {error}",
            where=str(adapter / ADAPTER),
            hint="the file is damaged: put it back from a copy, or train again",
        ) from None
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names if ".lora_" in name})  # fmt: skip  # noqa: E501
    taken = (*MODULES, *MORE_MODULES.get(architecture, ()))
    others = [name for name in modules if name not in taken]
    ranks = {settings["r"], *(settings.get("rank_pattern") or {}).values()}
    saved = settings.get("modules_to_save")
    return [
        Check(f"rank at most {RANKS[-1]}", max(ranks) <= RANKS[-1], str(max(ranks))),
        Check("no DoRA", not settings.get("use_dora"), f"use_dora: {settings.get('use_dora')}"),
        Check("no bias", settings["bias"] == "none", f"bias: {settings['bias']}"),
        Check("no modules_to_save", not saved, f"modules_to_save: {saved}"),
        Check(
            "only projections of attention and MLP are adapted",
            not others,
            ", ".join(others or modules),
        ),
        Check(
            "vLLM serves adapters of this architecture",
            architecture not in NO_ADAPTERS,
            architecture or "unknown",
        ),
    ]


def _serve(path: str, name: str) -> str:
    return shlex.join(["vllm", "serve", path, "--served-model-name", name])


def _serve_adapter(base: str, adapter: Path, name: str, rank: int) -> str:
    allowed = next(one for one in RANKS if one >= rank)
    return shlex.join(
        [
            "vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(allowed),
            "--lora-modules", f"{name}={adapter}",
        ]
    )  # fmt: skip
