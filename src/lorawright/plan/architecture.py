"""config.json and model class → facts that decide how chats can be computed; no weights.

    config.json ─► layers, windows, positions, dropouts, logits
    its class   ─► whether its attention can be exchanged, whether its layers carry state

Facts in place of names wherever there are any; `selfcheck.py` proves them on the loaded model.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from lorawright.errors import ModelError

LAYER_KINDS = re.compile(r"^(layer_types|layers_block_type|block_types?)$")
STATEFUL_KINDS = re.compile(r"conv|linear|mamba|recurrent|ssm|rwkv|lstm|delta|hybrid")
WINDOWED_KINDS = re.compile(r"sliding")
HIDDEN_KINDS = re.compile(r"chunked|local|indexed|sparse|compressed")  # rules that are masks only
HIDDEN_KEYS = ("attention_sinks", "attention_chunk_size")
STATEFUL_KEYS = re.compile(r"(^|_)(mamba|conv|ssm|lru|rwkv|recurrent|m?lstm|linear_attn)(_|$)")
NOISE_KEYS = re.compile(r"drop|jitter")
OTHER_HEADS = re.compile(r"classifier|summary")  # of heads that no chat goes through
SCALED_LOGITS = re.compile(
    r"^(final_logit_softcapping|logits?_scal(e|ing)|output_multiplier|lm_head_multiplier"
    r"|(output_)?logits?_soft_cap)$"
)
EXPERTS = re.compile(r"^(moe_)?(num|n)_(\w+_)?experts$")
MOST_KERNEL_HEAD = 256  # FlashAttention's widest head


class Rule(StrEnum):
    """What attention does beyond causal and hands on: values are the keywords it does so by.

    WINDOW: A token sees so many tokens, itself among them, and none before.
    CAP: Scores are bent to stay below a number.
    SINKS: A learned score for each head takes part in the softmax and has no value.
    """

    WINDOW = "sliding_window"
    CAP = "softcap"
    SINKS = "s_aux"


HANDED_ON = re.compile(rf"^ +({'|'.join(Rule)})=(?:self|getattr)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Architecture:
    """Facts about a base model.

    Attributes:
        model_type: Transformers' name of the family.
        exchangeable: Its attention goes through Transformers' `AttentionInterface`.
        eager_only: It has no attention but the one that keeps a score for each pair of tokens.
        rules: Windows, capped scores and sinks that its layers hand on to an attention.
        hidden_rules: Chunks and other rules that only its own masks and attention know.
        fits_kernels: Its heads are as varlen kernels take them.
        state: What it carries from token to token besides attention, or None.
        rope: `dynamic`, `longrope`, or None where rotations depend on the position alone.
        rope_tokens: Longest chat up to which that does not matter.
        noise: The base's own dropouts and jitters, by key of its config.
        scales_logits: Whether its config names a scale or a cap of logits behind the head.
        has_experts: Mixture of experts.
        checkpoints: Its class can compute activations again.
    """

    model_type: str
    exchangeable: bool
    eager_only: bool
    rules: frozenset[Rule]
    hidden_rules: bool
    fits_kernels: bool
    state: str | None
    rope: str | None
    rope_tokens: int
    noise: dict[str, float]
    scales_logits: bool
    has_experts: bool
    checkpoints: bool

    def one_chat_a_pass(self, longest_tokens: int) -> str | None:
        """Why chats of this model cannot lie side by side in a pass; None where they can.

        Args:
            longest_tokens: Of the run.
        """
        if self.state is not None:
            return f"{self.model_type} carries state from token to token ({self.state})"
        if not self.exchangeable:
            return f"{self.model_type} has attention of its own"
        if self.eager_only and self.hidden_rules:
            return f"{self.model_type} keeps a score for each pair of a pass's tokens (eager)"
        if self.rope == "longrope" and longest_tokens > self.rope_tokens:
            return f"{self.model_type} turns positions by the longest chat, over {self.rope_tokens}"
        return None


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Transformers' config of a model folder. Imports torch.

    Raises:
        ModelError: It is none, or a family that Transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, StrictDataclassError,
    ) as error:  # fmt: skip
        raise ModelError(
            f"its config cannot be read: {' '.join(str(error).split())[:300]}",
            where=str(folder),
            hint="`lorawright doctor` shows versions; a newer model needs a newer Transformers, "
            "one with code of its own `model.trust_remote_code: true`",
        ) from error


def read(folder: Path, *, trust_remote_code: bool = False) -> Architecture:
    """The facts of a model folder that has at least config.json.

    Raises:
        ModelError: As `read_config`.
    """
    config = read_config(folder, trust_remote_code=trust_remote_code)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get_text_config()
    facts = {**written.get("text_config", written), **text.to_dict()}
    found = _class_of(config, own_code=trust_remote_code and "auto_map" in written)
    rope, rope_tokens = _rope(facts)
    rules, handed_on = _rules(facts), _handed_on(type(text))
    return Architecture(
        model_type=str(text.model_type or config.model_type),
        exchangeable=bool(getattr(found, "_supports_attention_backend", False)),
        eager_only=not getattr(found, "_supports_sdpa", False),
        rules=frozenset((rules | {Rule.SINKS}) & handed_on),
        hidden_rules=_has_hidden_rules(facts) or not rules <= handed_on,
        fits_kernels=not facts.get("v_head_dim")
        and (facts.get("head_dim") or 0) <= MOST_KERNEL_HEAD,
        state=_state(facts, found),
        rope=rope,
        rope_tokens=rope_tokens,
        noise=noise(config),
        scales_logits=bool(scaled_logits(config)),
        has_experts=any(
            EXPERTS.match(key) and isinstance(value, int) and value > 1
            for key, value in facts.items()
        ),
        checkpoints=bool(getattr(found, "supports_gradient_checkpointing", True)),
    )


def noise(config: Any) -> dict[str, float]:
    """The base's own dropouts and jitters that are on, by key."""
    facts = config.get_text_config().to_dict()
    return {
        key: float(value)
        for key, value in facts.items()
        if NOISE_KEYS.search(key)
        and not OTHER_HEADS.match(key)
        and isinstance(value, (int, float))
        and value > 0
    }


def scaled_logits(config: Any) -> dict[str, float]:
    """The keys that scale or cap logits behind the head, and their values."""
    facts = config.get_text_config().to_dict()
    return {
        key: float(value)
        for key, value in facts.items()
        if SCALED_LOGITS.match(key) and value and value != 1
    }


def _class_of(config: Any, *, own_code: bool) -> Any:
    """The class that will be loaded; None for one that comes with the model. Imports torch."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if own_code or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _kinds(facts: dict[str, Any]) -> Iterator[str]:
    for key, value in facts.items():
        if LAYER_KINDS.match(key) and isinstance(value, (list, tuple)):
            yield from (str(kind) for kind in value)


def _state(facts: dict[str, Any], found: Any) -> str | None:
    for kind in _kinds(facts):
        if STATEFUL_KINDS.search(kind):
            return f"layers of type {kind}"
    for key, value in facts.items():
        if STATEFUL_KEYS.search(key) and value:
            return key
    return found.__name__ if getattr(found, "_is_stateful", False) else None


def _rules(facts: dict[str, Any]) -> set[Rule]:
    """What the config asks for; sinks are weights, no config names them."""
    found = set()
    windowed = facts.get("sliding_window") and facts.get("use_sliding_window", True)
    if windowed or any(WINDOWED_KINDS.search(kind) for kind in _kinds(facts)):
        found.add(Rule.WINDOW)
    if facts.get("attn_logit_softcapping"):
        found.add(Rule.CAP)
    return found


def _has_hidden_rules(facts: dict[str, Any]) -> bool:
    return any(facts.get(key) for key in HIDDEN_KEYS) or any(
        HIDDEN_KINDS.search(kind) for kind in _kinds(facts)
    )


def _handed_on(config_class: type) -> set[Rule]:
    """What the layers of a text model say to an attention, read from their source.

    Some families have windows in their masks and do not say so (Phi-3.5-MoE, Qwen2-MoE, Doge).
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    found = MODEL_MAPPING.get(config_class, ())
    classes = found if isinstance(found, tuple) else (found,)
    try:
        source = "".join(inspect.getsource(sys.modules[one.__module__]) for one in classes[:1])
    except (OSError, TypeError):  # installed without sources
        return set()
    return {Rule(name) for name in HANDED_ON.findall(source)}


def _rope(facts: dict[str, Any]) -> tuple[str | None, int]:
    """Rotations that depend on how long a row is, and from where on."""
    for values in _dicts(facts.get("rope_parameters") or facts.get("rope_scaling") or {}):
        kind = values.get("rope_type") or values.get("type")
        if kind in ("longrope", "dynamic"):
            known = (
                values.get("original_max_position_embeddings")
                or facts.get("original_max_position_embeddings")
                or facts.get("max_position_embeddings")
            )
            return str(kind), int(known or 0)
    return None, 0


def _dicts(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A dictionary, or those inside it: newer configs have one a kind of layer."""
    yield values
    yield from (inner for inner in values.values() if isinstance(inner, dict))
