"""GGUF: every architecture's names, settings and changed tensors; what llama.cpp cannot be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lorawright.errors import ModelError
from lorawright.exporters import gguf_families, gguf_file
from lorawright.exporters.gguf_families import FAMILIES
from lorawright.exporters.merged_weights import MergedWeights
from lorawright.types import GgufType

PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 512, "short_factor": [1.0, 2.0, 3.0, 4.0],
    "long_factor": [5.0, 6.0, 7.0, 8.0],
}  # fmt: skip
LINEAR = {
    "sliding_attention": PLAIN,
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
}


def small(kind: str, **changes: Any) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "tie_word_embeddings": True, "pad_token_id": 0, "sliding_window": None,
        "bos_token_id": None, "eos_token_id": 1,
    }  # fmt: skip
    if kind.startswith("gemma"):
        sizes |= {"sliding_window": 16, "head_dim": 32, "query_pre_attn_scalar": 32}
    if kind in ("mistral", "glm4", "qwen3"):
        sizes["head_dim"] = 32
    return CONFIG_MAPPING[kind](**{**sizes, **changes})


def written(config: Any, folder: Path, name: str = "mistral-like") -> tuple[Any, Any, Path]:
    """A random model, its layout, its float32 file."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    base = folder / "model.safetensors"
    weights = MergedWeights(
        dict.fromkeys(load_file(base), base), {}, {}, None, "model.embed_tokens.weight", {}, model
    )
    layout = gguf_file.lay_out(weights, config, GgufType.F32, "base")
    file = folder / "model.gguf"
    digests = gguf_file.write(layout, weights, lambda _: None, file, name, lambda _: None)
    gguf_file.verify(file, layout, digests, {})
    return model, layout, file


def fields(file: Path, prefix: str) -> dict[str, Any]:
    found = gguf_library.GGUFReader(file).fields
    return {
        key.removeprefix(prefix): field.contents()
        for key, field in found.items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_is_read_back(kind: str, tmp_path: Path) -> None:
    """The file's tensors, by their names and without the changes, make the same model."""
    model, layout, file = written(small(kind), tmp_path)
    back = gguf_file.read_model(file, layout, torch.float32).eval()
    ids = torch.arange(2, 50)[None]
    with torch.inference_mode():
        assert torch.allclose(back(ids).logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "phi3", "gemma3_text"])
def test_stretched_positions_are_read_back(kind: str, tmp_path: Path) -> None:
    rope = {"llama": LLAMA3, "phi3": LONG, "gemma3_text": LINEAR}[kind]
    config = small(kind, rope_parameters=rope, original_max_position_embeddings=512)
    model, layout, file = written(config, tmp_path)
    back = gguf_file.read_model(file, layout, torch.float32).eval()
    ids = torch.arange(2, 50)[None]
    with torch.inference_mode():
        assert torch.allclose(back(ids).logits, model(ids).logits, atol=1e-5)
    data = {tensor.name: tensor.data for tensor in gguf_library.GGUFReader(file).tensors}
    if kind == "llama":
        pairs = data["rope_freqs.weight"]
        assert pairs[[0, -1]] == pytest.approx([1, 8]) and (np.diff(pairs) >= -1e-5).all()
        assert len(pairs) == 8 and any((pairs > 1.1) & (pairs < 7.9))
    if kind == "phi3":
        assert data["rope_factors_short.weight"].tolist() == [1, 2, 3, 4]
        assert data["rope_factors_long.weight"].tolist() == [5, 6, 7, 8]
        found = fields(file, "phi3.")
        assert found["rope.scaling.original_context_length"] == 512
        assert found["rope.dimension_count"] == 8 and found["attention.sliding_window"] == 0
        expected = (1 + np.log(2) / np.log(512)) ** 0.5
        assert found["rope.scaling.attn_factor"] == pytest.approx(expected)
    if kind == "gemma3_text":
        found = fields(file, "gemma3.")
        assert (found["rope.scaling.type"], found["rope.scaling.factor"]) == ("linear", 8)
        assert found["rope.freq_base"] == 1e6


def test_gemma(tmp_path: Path) -> None:
    """Norms have the 1 in them that Transformers adds; the loader reads window and caps."""
    model, _, file = written(small("gemma2"), tmp_path)
    data = {tensor.name: tensor.data for tensor in gguf_library.GGUFReader(file).tensors}
    layer = model.model.layers[3]
    for name, norm in (
        ("blk.3.attn_norm", layer.input_layernorm),
        ("blk.3.post_attention_norm", layer.post_attention_layernorm),
        ("blk.3.ffn_norm", layer.pre_feedforward_layernorm),
        ("blk.3.post_ffw_norm", layer.post_feedforward_layernorm),
        ("output_norm", model.model.norm),
    ):
        expected = 1 + norm.weight.detach().numpy()
        assert np.allclose(data[f"{name}.weight"], expected)
    found = fields(file, "gemma2.")
    assert found["attn_logit_softcapping"] == 50 and found["final_logit_softcapping"] == 30
    assert found["attention.sliding_window"] == 16
    assert found["attention.key_length"] == found["attention.value_length"] == 32


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_rows_of_queries_are_turned(kind: str, tmp_path: Path) -> None:
    """Row 2i + j of a head is Transformers' row i + j * half."""
    model, _, file = written(small(kind), tmp_path)
    data = {tensor.name: tensor.data for tensor in gguf_library.GGUFReader(file).tensors}
    weight = model.model.layers[0].self_attn.k_proj.weight.detach().numpy()
    size = weight.shape[0] // 2
    half = size // 2
    turned = [head * size + i + j * half for head in range(2) for i in range(half) for j in (0, 1)]
    assert np.array_equal(data["blk.0.attn_k.weight"], weight[turned])
    assert fields(file, "general.")["architecture"] == "llama"
    assert fields(file, "llama.")["rope.dimension_count"] == size


def test_glm_turns_a_part_of_each_head(tmp_path: Path) -> None:
    rope = {**PLAIN, "partial_rotary_factor": 0.5}
    _, _, file = written(small("glm4", rope_parameters=rope, attention_bias=True), tmp_path)
    assert fields(file, "glm4.")["rope.dimension_count"] == 16
    names = {tensor.name for tensor in gguf_library.GGUFReader(file).tensors}
    assert {"blk.6.attn_q.bias", "blk.6.ffn_up.weight", "blk.6.post_ffw_norm.weight"} <= names


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("starcoder2", {}, "is a starcoder2 model; known are qwen2, qwen3, llama, mistral, gemma2"),
        ("mistral", {"sliding_window": 512}, "attends through sliding windows"),
        ("phi3", {"sliding_window": 512}, "attends through sliding windows"),
        ("mistral", {"rope_parameters": LLAMA3}, "stretches its positions by llama3"),
        ("llama", {"hidden_act": "gelu"}, "activates by gelu"),
        ("gemma2", {"query_pre_attn_scalar": 64}, "scales its attention by 64, not by 32"),
        ("gemma2", {"final_logit_softcapping": None}, "caps its logits at 50.0 and None"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "caps its logits at None and 30.0"),
        (
            "gemma3_text",
            {"layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"]},
            "has windows in other layers than all but every 6th",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {**LINEAR, "sliding_attention": {**PLAIN, "rope_theta": 5e3}}},
            "turns positions in its windows by",
        ),
        ("gemma3_text", {"use_bidirectional_attention": True}, "looks ahead"),
    ],
)
def test_what_llama_cpp_cannot_be_told(kind: str, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        gguf_families.find(small(kind, **changes), "base")
    assert "convert_hf_to_gguf.py" in str(caught.value.hint)


def test_windows_that_hide_nothing() -> None:
    """As wide as the context, as in Phi-4-mini and Mistral from 0.2 on."""
    for kind in ("mistral", "phi3"):
        assert gguf_families.find(small(kind, sliding_window=1024), "base") is FAMILIES[kind]
    assert gguf_families.find(small("gemma2"), "base").period == 2
