"""Small random models of other families than the tiny one's, and plain training of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorawright.config import Config
from lorawright.config.schema import Dtype, ModelSettings
from lorawright.exporters.small_family import make_base, plain_losses

__all__ = ["MIXTURES", "make_base", "plain_losses", "settled"]

EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
SHARED = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MLA = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "head_dim": 8, "num_key_value_heads": 2,
}  # fmt: skip
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**EXPERTS, **SHARED},
    "qwen2_moe": {**EXPERTS, **SHARED},
    "mixtral": EXPERTS,
    "gpt_oss": {"sliding_window": 16, **EXPERTS},
    "olmoe": EXPERTS,
    "glm4_moe": ROUTED,
    "deepseek_v3": {**ROUTED, **MLA},
    "granitemoe": EXPERTS,
    "granitemoeshared": {**EXPERTS, "shared_intermediate_size": 24},
    "phimoe": EXPERTS,  # jitter; its router is a linear layer that returns a tuple
    "llama4_text": {"attention_chunk_size": 16, "intermediate_size_mlp": 48, **EXPERTS},
    "ernie4_5_moe": {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
}  # fmt: skip
"""Mixtures of experts; layers of the last kinds are dense in part, or have shared experts."""


def settled(config: Config, base: Path, **lora_settings: Any) -> Config:
    return config.model_copy(
        update={
            "model": ModelSettings(name=str(base), dtype=Dtype.FLOAT32),
            "lora": config.lora.model_copy(update={"rank": 4, **lora_settings}),
        }
    )
