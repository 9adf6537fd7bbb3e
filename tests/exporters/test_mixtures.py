"""Mixtures of experts, from plan to hand-over: trained as PEFT does it, merged into their files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_models import MIXTURES, make_base, plain_losses, settled
from transformers import AutoModelForCausalLM

from lorawright.config import Config
from lorawright.config.load import load_leniently
from lorawright.config.schema import LoraSettings
from lorawright.errors import ConfigError, ModelError
from lorawright.exporters import base_tensors, eject, merge, merged_weights
from lorawright.plan import adapted, run_plan
from lorawright.run.events import silent
from lorawright.run.folder import RunFolder, read_config
from lorawright.training import train

MakeConfig = Callable[..., Config]


def small_config(make: MakeConfig, base: Path, **lora: Any) -> Config:
    """Two steps at a high rate: an adapter that changes what the model says."""
    made = make(
        8, num_eval=3, batch_size=4, logging_steps=1, learning_rate=2e-2, schedule="constant",
        warmup_ratio=0.0, weight_decay=0.0, optimizer="adamw_torch",
    )  # fmt: skip
    return settled(made, base, **lora)


def merged_by_peft(base: Path, adapter: Path, out: Path) -> dict[str, torch.Tensor]:
    """Tensors as PEFT merges and Transformers saves them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(out)
    return load_file(out / "model.safetensors")


def compare_merged(
    folder: RunFolder, base: Path, tmp_path: Path, *, num_unmoved: int = 0
) -> dict[str, Any]:
    """Merges a run; every tensor is PEFT's, bit by bit, and has the name it has in the base.

    Args:
        folder: The run.
        base: Its base.
        tmp_path: For PEFT's own.
        num_unmoved: Tensors whose adapter has no gradient.
    """
    found = merge.run(folder, read_config(folder))
    merged = load_file(Path(found["path"]) / "model.safetensors")
    expected = merged_by_peft(base, folder.adapter, tmp_path / "plain")
    before = load_file(base / "model.safetensors")
    assert merged.keys() == before.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    changed = sum(not torch.equal(tensor, before[name]) for name, tensor in merged.items())
    assert changed == found["num_merged"] - num_unmoved > 0
    return found


@pytest.mark.parametrize("name", MIXTURES)
def test_all_that_is_left_out_can_be_named(
    make_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    """Experts, routers, and what PEFT has no name for: steps, adapter and merge are PEFT's."""
    base = make_base(tmp_path / "base", name, **MIXTURES[name])
    skeleton = adapted.skeleton(base)
    left = adapted.left_out(skeleton, LoraSettings())
    assert {"gate_up_proj", "down_proj"} <= {one.rpartition(".")[2] for one in left.names}
    config = small_config(make_config, base, target_parameters=list(left.names))
    assert not adapted.left_out(skeleton, config.lora).names
    folder = train.run(config).folder
    got = [line["loss"] for line in folder.read_metrics() if "loss" in line]
    assert got == pytest.approx(plain_losses(config, base), abs=5e-6)
    held = json.dumps(sorted(load_file(folder.adapter / "adapter_model.safetensors")))
    assert "experts.base_layer.lora_A" in held
    # without jitter the routers of Phi-MoE weigh the two chosen experts with 1, whatever they read
    unmoved = 2 if name == "phimoe" else 0
    assert compare_merged(folder, base, tmp_path, num_unmoved=unmoved)["mean_kl"] < 1e-9


@pytest.mark.parametrize("name", ["qwen2_moe", "mixtral", "glm4_moe", "granitemoe"])
def test_layers_alone_are_merged(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    """Experts' tensors have other names and shapes in the files; what is adapted has its own."""
    base = make_base(tmp_path / "base", name, **MIXTURES[name])
    folder = train.run(small_config(make_config, base)).folder
    assert compare_merged(folder, base, tmp_path)["mean_kl"] < 1e-9


def test_dropout_is_for_layers(make_config: MakeConfig, tmp_path: Path) -> None:
    """PEFT makes adapters of experts from `all-linear` in this family, and refuses dropout."""
    base = make_base(tmp_path / "base", "qwen3_moe", **MIXTURES["qwen3_moe"])
    config = small_config(make_config, base, dropout=0.1)
    folder = train.run(config).folder
    names = load_file(folder.adapter / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_activations_that_are_computed_again(make_config: MakeConfig, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen3_moe", **MIXTURES["qwen3_moe"])
    wanted = ["experts.gate_up_proj", "experts.down_proj"]
    config = small_config(make_config, base, target_parameters=wanted)
    again = config.training.model_copy(update={"gradient_checkpointing": True})
    folder = train.run(config.model_copy(update={"training": again})).folder
    got = [line["loss"] for line in folder.read_metrics() if "loss" in line]
    assert got == pytest.approx(plain_losses(config, base), abs=5e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed": {"strategy": "zero3"}}, "which divides the weights"),
        ({"lora": {"target_parameters": ["down_proj"]}}, "`lora.dropout` cannot be"),
        ({"distributed": {"strategy": "fsdp2", "num_processes": 2}}, "which divides the weights"),
    ],
)
def test_what_a_parameter_cannot_have_is_refused(
    make_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    base = make_base(tmp_path / "base", "mixtral", **MIXTURES["mixtral"])
    config = small_config(make_config, base, target_parameters=["experts.down_proj"])
    divided = Config.model_validate({**config.model_dump(), **changes})
    with pytest.raises(ConfigError, match=message) as error:
        run_plan.make(divided, silent)
    assert error.value.where == "lora.target_parameters"


@pytest.mark.parametrize(
    ("more", "key"), [("", "lora.dropout"), ("  dropout: 0\n  use_dora: true\n", "lora.use_dora")]
)
def test_what_a_parameter_cannot_have_is_a_line_of_the_config(
    tmp_path: Path, more: str, key: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"lora:\n  target_parameters: [mlp.experts.down_proj]\n{more}")
    (problem,) = load_leniently(path).problems
    assert problem.line == 2 and problem.path == "lora.target_parameters"
    assert f"`{key}` cannot be" in problem.message and f"write `{key}: " in str(problem.hint)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_a_plan_says_what_is_not_adapted(
    make_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    base = make_base(tmp_path / "base", name, **MIXTURES[name])

    def reason(**lora: Any) -> str:
        config = small_config(make_config, base, **lora)
        found = run_plan.make(config, silent).settings.reasons
        return found.get("lora.target_modules", "")

    assert reason().startswith("not adapted: mlp.experts.gate_up_proj, mlp.experts.down_proj, ")
    assert re.search(r"\d\d% of the weights; `lora.target_parameters`", reason())
    some = reason(target_parameters=["mlp.experts.gate_up_proj"])
    assert some.startswith("not adapted: mlp.experts.down_proj, ")
    assert not reason(target_modules=["q_proj"])


@pytest.mark.parametrize(
    ("lora", "message", "hint"),
    [
        ({"target_modules": ["q_proj", "gate_proj"]}, "PEFT reads `gate_proj`", "proj.weight]"),
        ({"target_modules": r".*shared.*up_proj"}, "PEFT reads `up_proj`", "proj.weight]"),
        ({"target_modules": ["qproj"]}, "no layer is called `qproj`; did you mean", "q_proj"),
        ({"target_parameters": ["experts.gate_up"]}, "did you mean `mlp.experts.gate", "mlp"),
        ({"target_parameters": ["input_layernorm.weight"]}, "has 1 dimensions", "leave it out"),
        ({"target_parameters": ["q_proj.weight"]}, "belongs to a layer that", "one of them"),
    ],
)  # fmt: skip
def test_names_are_checked_before_anything_is_loaded(
    make_config: MakeConfig, tmp_path: Path, lora: dict[str, Any], message: str, hint: str
) -> None:
    base = make_base(tmp_path / "base", "glm4_moe", **MIXTURES["glm4_moe"])
    with pytest.raises(ModelError) as error:
        run_plan.make(small_config(make_config, base, **lora), silent)
    assert message in error.value.what and hint in str(error.value.hint)


def test_a_pattern_keeps_the_layers_it_is_limited_to(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """PEFT takes the last part of the names alone in such a family: the layer would be lost."""
    base = make_base(tmp_path / "base", "mixtral", **MIXTURES["mixtral"])
    config = small_config(make_config, base, target_modules=r".*\.1\..*q_proj")
    names = load_file(train.run(config).folder.adapter / "adapter_model.safetensors")
    assert len(names) == 2 and all(".1.self_attn.q_proj." in name for name in names)


def test_a_mamba_layer_keeps_its_last_projection(make_config: MakeConfig, tmp_path: Path) -> None:
    """PEFT refuses `out_proj` there, whose weight a kernel reads: `all-linear` leaves it out."""
    base = make_base(
        tmp_path / "base", "mamba2", num_heads=4, head_dim=16, state_size=8, n_groups=1,
        chunk_size=16,
    )  # fmt: skip
    config = small_config(make_config, base)
    reason = run_plan.make(config, silent).settings.reasons["lora.target_modules"]
    assert reason.startswith("not adapted: mixer.out_proj.weight") and "PEFT has no" in reason
    folder = train.run(config).folder
    got = [line["loss"] for line in folder.read_metrics() if "loss" in line]
    assert got == pytest.approx(plain_losses(config, base), abs=5e-6)
    assert compare_merged(folder, base, tmp_path)["num_merged"] == 2
    for lora in ({"target_modules": ["out_proj"]}, {"target_parameters": ["out_proj.weight"]}):
        with pytest.raises(ModelError, match="PEFT has no adapter for `mixer") as error:
            run_plan.make(small_config(make_config, base, **lora), silent)
        assert "leave it out" in str(error.value.hint)


def test_an_ejected_script_names_layers_as_peft_takes_them(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", "mixtral", **MIXTURES["mixtral"])
    fields = eject._lora(run_plan.make(small_config(make_config, base), silent))
    assert "model.layers.1.self_attn.o_proj" in fields["target_modules"]
    assert len(fields["target_modules"]) == 8 and "target_parameters" not in fields


def test_quantized_files_are_a_warning_before_training(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", "gpt_oss", **MIXTURES["gpt_oss"])
    path = base / "config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "quantization_config": {"quant_method": "mxfp4"}}))
    told: list[Any] = []
    run_plan.make(small_config(make_config, base), told.append)
    warnings = [event.text for event in told if getattr(event, "is_warning", False)]
    assert any("quantized (mxfp4): `merge`" in text for text in warnings)


def test_parts_of_other_sizes_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    """An expert too few in the files: nothing is merged by halves."""
    from safetensors.torch import save_file

    base = make_base(tmp_path / "base", "mixtral", **MIXTURES["mixtral"])
    config = small_config(make_config, base, target_parameters=["experts.down_proj"])
    folder = train.run(config).folder
    tensors = load_file(base / "model.safetensors")
    tensors.pop("model.layers.0.block_sparse_moe.experts.3.w2.weight")
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ModelError, match="has the shape"):
        merged_weights.plan(base, folder.adapter)


def test_files_without_the_models_prefix(tmp_path: Path) -> None:
    """GPT-2's own: `h.0.attn.c_attn.weight`, with `transformer.` only in the model."""
    base = make_base(tmp_path / "base", "gpt2", n_embd=32, n_layer=1, n_head=2)
    model = adapted.skeleton(base)
    names = [name.removeprefix("transformer.") for name in load_file(base / "model.safetensors")]
    groups = {group.parameter: list(group.tensors) for group in base_tensors.groups(model, names)}
    assert groups["transformer.h.0.attn.c_attn.weight"] == ["h.0.attn.c_attn.weight"]
