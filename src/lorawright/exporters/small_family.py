"""A model's architecture at small size: trained in every layout, merged, converted.

    config.json ─► a few small layers of each kind, random weights, tiny's vocabulary
                ─► two steps: as `auto` lays them out, one chat a pass, by plain Transformers
                ─► merged, and as GGUF, each proven as after any run

What `doctor --model` shows of an architecture, and the table of families in the docs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lorawright import hardware, hub
from lorawright.config.schema import Config, Dtype
from lorawright.errors import LorawrightError, ModelError
from lorawright.exporters import gguf, merge
from lorawright.model import lora
from lorawright.plan import attention, run_plan
from lorawright.plan.run_plan import RunPlan
from lorawright.run.events import silent
from lorawright.run.folder import RunFolder
from lorawright.training import train
from lorawright.types import GgufType

MOST_DIFFERENCE = 1e-5
"""Of a step's loss in float32; the families that are exact differ by up to 2e-6 (docs/log.md)."""

SIZES = {
    "vocab_size": 2304, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 2282,
    "eos_token_id": 2284, "bos_token_id": None, "max_position_embeddings": 2048,
    "sliding_window": 16, "attention_chunk_size": 16, "vocab_size_per_layer_input": 2304,
    "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "first_k_dense_replace": 1,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "n_group": 1, "topk_group": 1, "moe_layer_start_index": 1,
    "intermediate_size_mlp": 48, "moe_k": 2, "num_experts_per_tok": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "max_window_layers": 1, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512,
    "n_inner": None, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_n_groups": 1,
    "mamba_d_state": 8, "num_heads": 4, "n_groups": 1, "state_size": 8, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "ssm_state_size": 8, "shared_intermediate_size": 24,
    "query_pre_attn_scalar": 16,
}  # fmt: skip
"""Small values of keys that configs have; those that a config lacks or leaves empty stay so."""
LEFT_OUT = {
    "architectures", "auto_map", "dtype", "torch_dtype", "quantization_config", "model_type",
    "per_layer_config", "time_step_limit", "mlp_layer_types", "no_rope_layers", "layer_block_type",
    "num_hidden_layers_per_block",
}  # fmt: skip
"""Of the files, or of many layers: a config's own values serve."""
NUM_EXPERTS, EXPERT_SIZE = 4, 24
MOST_LAYERS = 8


@dataclass(frozen=True, slots=True)
class Handed:
    """What became of a merge or a conversion: mean KL divergence in nats a token, or why not."""

    mean_kl: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FamilyProof:
    """What was found of an architecture.

    Attributes:
        model_type: Transformers' name of it.
        attention: What trains it, for people.
        shares: Whether chats share a pass, and what they begin with is computed once.
        difference: Largest difference of a step's loss from plain Transformers and PEFT, of all
            layouts, in nats a token; None where it cannot be trained.
        problem: Why it cannot be trained.
        merged: Its merge.
        converted: Its GGUF.
    """

    model_type: str
    attention: str = ""
    shares: bool = False
    difference: float | None = None
    problem: str | None = None
    merged: Handed | None = None
    converted: Handed | None = None

    @property
    def is_exact(self) -> bool:
        return self.difference is not None and self.difference <= MOST_DIFFERENCE


def check(folder: Path, work: Path) -> FamilyProof:
    """Makes the architecture of a model's folder small, trains it and hands it on.

    Args:
        folder: With config.json.
        work: An empty folder for what is made.

    Raises:
        ModelError: The config cannot be read, or is of no model of text.
    """
    given = orjson.loads((folder / "config.json").read_bytes())
    given = given.get("text_config") or given
    model_type = str(given.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"is of the type `{model_type}`, which Transformers does not know",
            where=f"{folder}/config.json",
            hint="update transformers; code of the model's own is not checked here",
        )
    try:
        known = {key: value for key, value in given.items() if key not in LEFT_OUT}
        whole = CONFIG_MAPPING[model_type].from_dict(known).to_dict()
        base = make_base(work / "base", model_type, **small(whole))
        config = _config(base, work)
        _plain_model(config, base)(input_ids=torch.arange(9)[None], use_cache=False)
    except Exception as error:  # a config class or a layer refuses sizes in ways of its own
        return FamilyProof(model_type, problem=f"cannot be made small: {_brief(error)}")
    try:
        return _trained(model_type, config, base, work)
    except LorawrightError as error:
        return FamilyProof(model_type, problem=f"{error.what}; {error.hint}")


def small(given: dict[str, Any]) -> dict[str, Any]:
    """A config with small sizes, and a few layers of each kind."""
    made = {
        key: value
        for key, value in given.items()
        if value is not None and not key.startswith("_") and key not in LEFT_OUT
    }
    for key, value in list(made.items()):
        if key in SIZES:
            made[key] = SIZES[key]
        elif "expert" in key and isinstance(value, int) and not isinstance(value, bool):
            made[key] = min(value, EXPERT_SIZE if "size" in key else NUM_EXPERTS)
        elif key == "moe_intermediate_size":
            made[key] = EXPERT_SIZE
    if "n_routed_experts" in made:
        made.setdefault("num_experts_per_tok", SIZES["num_experts_per_tok"])
    if "qk_rope_head_dim" in made:  # latent attention: the rotated part, as many keys as queries
        made |= {"head_dim": SIZES["qk_rope_head_dim"], "num_key_value_heads": 2}
    for key in ("layer_types", "layers_block_type"):
        kinds = _few(made.get(key))
        if kinds is not None:
            made |= {key: kinds, "num_hidden_layers": len(kinds)}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(made.get(key), dict):
            made[key] = _short(made[key])
    return made


def _few(kinds: Any) -> list[str] | None:
    """The first layers, through the first of each kind; at least two."""
    if not isinstance(kinds, list):
        return None
    num = max(kinds.index(kind) + 1 for kind in dict.fromkeys(kinds))
    return kinds[: min(max(num, 2), MOST_LAYERS)]


def _short(rope: dict[str, Any]) -> dict[str, Any]:
    """Factors by dimension for small heads."""
    size = SIZES["head_dim"]
    assert isinstance(size, int)
    return {
        key: value[: size // 2]
        if isinstance(value, list)
        else (_short(value) if isinstance(value, dict) else value)
        for key, value in rope.items()
    }


def make_base(folder: Path, name: str, **sizes: Any) -> Path:
    """A small random model with the tiny model's tokenizer.

    Args:
        folder: To be made.
        name: The model type.
        sizes: Of its config; those of `SIZES` that every config has by default.
    """
    torch.manual_seed(0)
    usual = {key: SIZES[key] for key in list(SIZES)[:11] if key != "bos_token_id"}
    config = CONFIG_MAPPING[name](**{**usual, **sizes})
    made = AutoModelForCausalLM.from_config(config).float()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(hub.model_folder(hub.TINY) / file, folder / file)
    return folder


def _trained(model_type: str, config: Config, base: Path, work: Path) -> FamilyProof:
    expected = plain_losses(config, base)
    plan = run_plan.make(config, silent)
    shares = attention.of(plan.config, hardware.detect(), base) in attention.PACKED
    difference = 0.0
    for name, more in _layouts().items():
        training = config.training.model_copy(update={"output": str(work / name), **more})
        found = train.run(config.model_copy(update={"training": training})).folder
        losses = [line["loss"] for line in found.read_metrics() if "loss" in line]
        difference = max(difference, *(abs(a - b) for a, b in zip(losses, expected, strict=True)))
    folder = RunFolder(work / "auto")
    return FamilyProof(
        model_type,
        attention.describe(attention.of(plan.config, hardware.detect(), base)),
        shares,
        difference,
        None,
        _handed(lambda: merge.run(folder, config)["mean_kl"]),
        _handed(lambda: _converted(folder, config)),
    )


def _layouts() -> dict[str, dict[str, Any]]:
    return {"auto": {}, "alone": {"tokens_per_pass": 1, "share_prefixes": False}}


def _handed(make: Callable[[], float]) -> Handed:
    try:
        return Handed(make())
    except LorawrightError as error:
        return Handed(problem=error.what)


def _converted(folder: RunFolder, config: Config) -> float:
    options = gguf.Options((GgufType.F32,))
    (found,) = gguf.run(folder, config, options, lambda what, num_done, num_all: None).values()
    return float(found["mean_kl"])


def _config(base: Path, work: Path) -> Config:
    """Two steps of eight chats, nothing random in them."""
    (work / "train.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in _rows(12)))
    return Config.model_validate(
        {
            "model": {"name": str(base), "dtype": Dtype.FLOAT32},
            "data": {"train": str(work / "train.jsonl"), "eval": None},
            "lora": {"rank": 4, "dropout": 0.0},
            "training": {
                "output": str(work / "auto"), "batch_size": 8, "epochs": 1, "logging_steps": 1,
                "learning_rate": 2e-3, "schedule": "constant", "warmup_ratio": 0.0,
                "weight_decay": 0.0, "optimizer": "adamw_torch", "trackers": [],
            },
        }
    )  # fmt: skip


def _rows(num_rows: int) -> Iterator[dict[str, Any]]:
    """Chats with a common beginning, one long enough to cross a small window."""
    for number in range(num_rows):
        answer = f"I am number {number}. " + "Fine weather, is it not? " * (number % 5)
        yield {
            "messages": [
                {"role": "system", "content": "You are a small helpful assistant who counts."},
                {"role": "user", "content": f"Who are you, number {number}?"},
                {"role": "assistant", "content": answer.strip()},
            ]
        }


def plain_losses(config: Config, base: Path) -> list[float]:
    """A run's steps by Transformers and PEFT alone: eager, chat by chat, no dropout of the base's.

    Args:
        config: In float32, without dropout, with plain AdamW at a constant rate.
        base: The base's folder.
    """
    plan = run_plan.make(config, silent)
    model = _plain_model(config, base)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.training.learning_rate, weight_decay=0.0)
    losses = []
    for number in range(len(plan.steps)):
        optimizer.zero_grad()
        losses.append(_plain_step(model, plan, number))
        torch.nn.utils.clip_grad_norm_(trained, config.training.max_grad_norm)
        optimizer.step()
    return losses


def _plain_model(config: Config, base: Path) -> Any:
    known = CONFIG_MAPPING[json.loads((base / "config.json").read_bytes())["model_type"]]
    settings = known.from_pretrained(base)
    for key, value in settings.to_dict().items():
        if "drop" in key or "jitter" in key:
            setattr(settings, key, 0.0 if isinstance(value, float) else value)
    found = AutoModelForCausalLM.from_pretrained(base, config=settings, attn_implementation="eager")
    torch.manual_seed(config.training.seed)
    return get_peft_model(found, LoraConfig(**lora.fields_for(found, config.lora))).train()


def _plain_step(model: Any, plan: RunPlan, number: int) -> float:
    """Loss and gradient of a step, sequence by sequence."""
    total = 0.0
    for index in plan.steps.sequences(plan.steps.chats(number)):
        chat = plan.chats.train[int(index)]
        ids_T = torch.tensor(chat.ids)
        logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0]
        places = torch.tensor([place for span in chat.spans for place in range(*span)])
        loss = torch.nn.functional.cross_entropy(
            logits_TV[places - 1], ids_T[places], reduction="sum"
        )
        loss = loss / plan.steps[number].num_trained_tokens
        loss.backward()  # type: ignore[no-untyped-call] # torch's
        total += float(loss.detach())
    return total


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else error!r}"
