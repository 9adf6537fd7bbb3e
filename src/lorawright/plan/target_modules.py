"""config.json and `lora.target_modules` → names that are no layers, found without weights.

Without torch and without weights, for `check`; architectures that are not in the table are left to
`plan`, which builds the model without weights (`adapted.py`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from lorawright.config.schema import LoraSettings
from lorawright.errors import ConfigError
from lorawright.masks.time_limit import TimeLimit, TookTooLong

ALL = "all-linear"
HEAD = "lm_head"
ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def _decoder(*feed_forward: str) -> tuple[str, str, tuple[str, ...]]:
    """A family that names all but its feed-forward layers as Llama does."""
    return "model.layers", "model.embed_tokens", (*ATTENTION, *feed_forward)


LLAMA = _decoder(*GATED)

# model_type → where the layers are, the embedding, linear modules of a layer; families whose layers
# are alike, whatever else stands in config.json
LAYERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("llama", "qwen2", "qwen3", "mistral", "ministral3", "gemma", "gemma2", "gemma3_text",
         "olmo", "olmo2", "olmo3", "smollm3", "granite", "cohere", "cohere2", "ernie4_5", "exaone4",
         "helium", "hyperclovax", "internlm3", "seed_oss", "stablelm"),
        LLAMA,
    ),
    **dict.fromkeys(("apertus", "arcee", "nemotron"), _decoder("mlp.up_proj", "mlp.down_proj")),
    **dict.fromkeys(("glm", "glm4"), _decoder("mlp.gate_up_proj", "mlp.down_proj")),
    **dict.fromkeys(("mixtral", "gpt_oss", "granitemoe", "olmoe"), _decoder()),
    "starcoder2": _decoder("mlp.c_fc", "mlp.c_proj"),
    "phi3": (
        "model.layers",
        "model.embed_tokens",
        ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        "gpt_neox.embed_in",
        ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h",
         "mlp.dense_4h_to_h"),
    ),
}  # fmt: skip


def names(folder: Path) -> list[str]:
    """Paths of the modules that LoRA can adapt; empty where the architecture is not known."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if "auto_map" in config:
            return []  # code of the model's own
        where, embedding, linear = LAYERS[config["model_type"]]
        num_layers = int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    layers = [f"{where}.{number}.{name}" for number in range(num_layers) for name in linear]
    return [*layers, embedding, HEAD]


def problem(settings: LoraSettings, folder: Path) -> tuple[str, str] | None:
    """What is wrong with `lora.target_modules`, and a hint; None: nothing that is known here.

    Args:
        settings: The adapter's.
        folder: The model's, with config.json.
    """
    known, wanted = names(folder), settings.target_modules
    if not known or wanted == ALL:
        return None
    if isinstance(wanted, str):
        try:
            if _matches(wanted, known):
                return None
        except TookTooLong:
            return (
                f"is `{wanted[:60]}`, a pattern without an end: it tries too many ways to match",
                "repeat nothing that repeats itself, as in `(a+)+`",
            )
        leaves = list(dict.fromkeys(_leaves(known)))
        if wanted in leaves:
            hint = f"it is read as a regular expression; write the list `[{wanted}]`"
        else:
            hint = f"a module is called `{known[0]}`; the pattern must match such a name whole"
        return f"is `{wanted[:60]}`, a pattern that matches no layer of this model", hint
    missing = [name for name in wanted if not any(_is_meant(name, path) for path in known)]
    if not missing:
        return None
    shown = ", ".join(f"`{name[:60]}`" for name in missing[:5])
    return f"has {shown}, which no layer of this model is called", _hint(missing[0], known)


def refuse_unknown(settings: LoraSettings, folder: Path) -> None:
    """Raises ConfigError for `problem`."""
    found = problem(settings, folder)
    if found is not None:
        what, hint = found
        raise ConfigError(f"`lora.target_modules` {what}", where="lora.target_modules", hint=hint)


def _matches(pattern: str, known: list[str]) -> bool:
    with TimeLimit() as limit:
        return limit.bounded(lambda: any(re.fullmatch(pattern, name) for name in known))


def _hint(name: str, known: list[str]) -> str:
    leaves = list(dict.fromkeys(_leaves(known)))
    near = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"expected one of: {', '.join(leaves)}"


def _is_meant(name: str, path: str) -> bool:
    """As PEFT reads a name of a list."""
    return path == name or path.endswith(f".{name}")


def _leaves(known: list[str]) -> Iterator[str]:
    return (path.rpartition(".")[2] for path in known)
