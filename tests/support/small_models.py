"""Small random models of other families than the tiny one's, and plain training of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lorawright import hub
from lorawright.config import Config
from lorawright.config.schema import Dtype, ModelSettings
from lorawright.model import lora
from lorawright.plan import run_plan
from lorawright.run.events import silent

SIZES = {
    "vocab_size": 2304, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 2282,
    "eos_token_id": 2284, "max_position_embeddings": 2048,
}  # fmt: skip
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


def make_base(folder: Path, name: str, **more: Any) -> Path:
    """A small random model with the tiny model's tokenizer."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**{**SIZES, **more})).float()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(hub.model_folder("tiny") / file, folder / file)
    return folder


def settled(config: Config, base: Path, **lora_settings: Any) -> Config:
    return config.model_copy(
        update={
            "model": ModelSettings(name=str(base), dtype=Dtype.FLOAT32),
            "lora": config.lora.model_copy(update={"rank": 4, **lora_settings}),
        }
    )


def plain_losses(config: Config, base: Path) -> list[float]:
    """Two steps by Transformers and PEFT, eager, chat by chat, no dropout of the base's own."""
    plan = run_plan.make(config, silent).steps
    chats = run_plan.make(config, silent).chats.train
    known = CONFIG_MAPPING[_model_type(base)].from_pretrained(base)
    for key, value in known.to_dict().items():
        if "drop" in key or "jitter" in key:
            setattr(known, key, 0.0 if isinstance(value, float) else value)
    found = AutoModelForCausalLM.from_pretrained(base, config=known, attn_implementation="eager")
    torch.manual_seed(config.training.seed)
    wrapped = get_peft_model(found, LoraConfig(**lora.fields_for(found, config.lora))).train()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.training.learning_rate, weight_decay=0.0)
    losses = []
    for number in range(len(plan)):
        optimizer.zero_grad()
        losses.append(0.0)
        for index in plan.chats(number):
            chat = chats[int(index)]
            ids_T = torch.tensor(chat.ids)
            logits_TV = wrapped(input_ids=ids_T[None], use_cache=False).logits[0]
            places = torch.tensor([place for span in chat.spans for place in range(*span)])
            loss = torch.nn.functional.cross_entropy(
                logits_TV[places - 1], ids_T[places], reduction="sum"
            )
            loss = loss / plan[number].num_trained_tokens
            loss.backward()
            losses[-1] += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, config.training.max_grad_norm)
        optimizer.step()
    return losses


def _model_type(base: Path) -> str:
    return str(CONFIG_MAPPING["llama"].get_config_dict(base)[0]["model_type"])
