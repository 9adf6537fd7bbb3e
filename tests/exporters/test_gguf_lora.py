"""export --adapter-only: a GGUF LoRA holds the updates that PEFT merges, or nothing is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lorawright.cli import app
from lorawright.errors import ModelError
from lorawright.exporters import gguf_lora, proof
from lorawright.exporters.merged_weights import plan
from lorawright.exporters.proof import Parts
from lorawright.run.folder import RunFolder, read_config


@pytest.fixture
def run(finished_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy to write results into."""
    path = tmp_path / "run"
    shutil.copytree(finished_run.path, path)
    return RunFolder(path)


def test_adapter_alone(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Every factor under llama.cpp's name, alpha and rank of the run, by the command."""
    assert app.run(["export", str(run.path), "--to", "gguf", "--adapter-only", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    reader = gguf_library.GGUFReader(found["path"])
    lora = read_config(run).lora
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "qwen2"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == lora.alpha == found["alpha"]
    assert found["rank"] == lora.rank and found["max_error"] < 1e-5
    assert len(reader.tensors) == found["num_tensors"] == 2 * 42
    names = {tensor.name: tensor.data.shape for tensor in reader.tensors}
    assert names["blk.0.attn_q.weight.lora_a"][0] == names["blk.5.ffn_up.weight.lora_b"][1] == 8
    assert not list(Path(found["path"]).parent.glob("*.tmp.gguf"))
    again = ["export", str(run.path), "--to", "gguf", "--adapter-only"]
    assert app.run(again) == 1 and "is there already" in capsys.readouterr().err
    assert app.run([*again, "--overwrite"]) == 0
    assert "rank 8, alpha 16; against PEFT's updates" in " ".join(capsys.readouterr().out.split())


def adapted_llama(folder: Path, run: RunFolder, **options: Any) -> tuple[Parts, LlamaConfig]:
    """A random Llama model with a random adapter."""
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    get_peft_model(model, lora).save_pretrained(str(folder / "adapter"))
    files = proof.open_parts(run, read_config(run)).files
    files = replace(files, base=folder / "base", adapter=folder / "adapter")
    return Parts(files, plan(files.base, files.adapter)), config


def test_rows_of_llamas_queries_are_turned(run: RunFolder, tmp_path: Path) -> None:
    """Row 2i + j of a head is Transformers' row i + j * half; A and other matrices stay."""
    parts, config = adapted_llama(tmp_path, run, use_rslora=True)
    factors = gguf_lora.lay_out(parts, config)
    assert factors[0].alpha == pytest.approx(8 / 4**0.5 * 4)
    file = tmp_path / "lora.gguf"
    gguf_lora._write(factors, config, file)
    assert gguf_lora.verify(factors, config, file) < 1e-5
    data = {tensor.name: tensor.data for tensor in gguf_library.GGUFReader(file).tensors}
    layers = parts.weights.layers
    query = layers["model.layers.0.self_attn.q_proj.weight"].lora_B["default"].weight
    value = layers["model.layers.0.self_attn.v_proj.weight"].lora_B["default"].weight
    turned = [head * 8 + i + j * 4 for head in range(4) for i in range(4) for j in range(2)]
    expected = query.detach().numpy()[turned]
    assert np.array_equal(data["blk.0.attn_q.weight.lora_b"], expected)
    assert np.array_equal(data["blk.0.attn_v.weight.lora_b"], value.detach().numpy())


def test_an_adapter_that_is_read_back_otherwise(run: RunFolder, tmp_path: Path) -> None:
    parts, config = adapted_llama(tmp_path, run)
    factors = gguf_lora.lay_out(parts, config)
    file = tmp_path / "lora.gguf"
    gguf_lora._write(factors, LlamaConfig(**{**config.to_dict(), "num_attention_heads": 2}), file)
    with pytest.raises(ModelError, match="read back, its updates are"):
        gguf_lora.verify(factors, config, file)


def test_adapters_that_no_gguf_holds(run: RunFolder, tmp_path: Path) -> None:
    for name, match, options in (
        ("dora", "is a DoRA adapter", {"use_dora": True}),
        ("alphas", "scales its matrices differently", {"alpha_pattern": {"q_proj": 64}}),
    ):
        parts, config = adapted_llama(tmp_path / name, run, **options)
        with pytest.raises(ModelError, match=match) as caught:
            gguf_lora.lay_out(parts, config)
        assert "--adapter-only" in str(caught.value.hint)
    parts.weights.layers["model.other.weight"] = next(iter(parts.weights.layers.values()))
    with pytest.raises(ModelError, match=r"adapts model\.other\.weight"):
        gguf_lora.lay_out(parts, config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "vllm"], "has no use with --to vllm"),
        (["--to", "gguf", "--type", "f16"], "--type: has no use with --adapter-only"),
        (["--to", "gguf", "--max-kl", "1"], "--max-kl: has no use with --adapter-only"),
    ],
)
def test_command_line(
    run: RunFolder, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["export", str(run.path), "--adapter-only", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
