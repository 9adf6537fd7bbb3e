"""`lora.target_modules` against the model's config.json, without weights and without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorawright import hub
from lorawright.cli import run
from lorawright.config.schema import LoraSettings
from lorawright.masks import time_limit
from lorawright.plan import target_modules

TINY = hub.model_folder("tiny")


def problem(wanted: str | list[str], folder: Path = TINY) -> tuple[str, str] | None:
    return target_modules.problem(LoraSettings(target_modules=wanted), folder)


@pytest.mark.parametrize(
    "wanted",
    [
        "all-linear",
        ["q_proj", "v_proj"],
        ["self_attn.q_proj"],
        ["model.layers.0.mlp.up_proj"],
        ["embed_tokens"],
        r".*\.(q|v)_proj",
        r"model\.layers\.[0-3]\.mlp\.down_proj",
    ],
)
def test_names_that_are_there(wanted: str | list[str]) -> None:
    assert problem(wanted) is None


@pytest.mark.parametrize(
    ("wanted", "what", "hint"),
    [
        (["q_proj", "vproj"], "`vproj`", "did you mean `v_proj`?"),
        (["query_key_value"], "`query_key_value`", "expected one of: q_proj"),
        (["proj"], "`proj`", ""),
        (["model.layers.99.mlp.up_proj"], "99", "did you mean `up_proj`?"),
        ("q_proj", "a pattern that matches no layer", "write the list `[q_proj]`"),
        ("(q|v)_proj", "a pattern that matches no layer", "model.layers.0.self_attn.q_proj"),
    ],
)
def test_names_that_are_not(wanted: str | list[str], what: str, hint: str) -> None:
    found = problem(wanted)
    assert found is not None and what in found[0] and hint in found[1]


def test_a_pattern_without_an_end_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    found = problem(r"(([a-z._0-9]+)+)+x")
    assert found is not None and "a pattern without an end" in found[0]


def test_what_is_not_known_is_left_to_training(tmp_path: Path) -> None:
    for text in (
        '{"model_type": "new_kind", "num_hidden_layers": 2}',
        '{"model_type": "llama"}',
        '{"model_type": "llama", "num_hidden_layers": 2, "auto_map": {}}',
        '{"model_type": [1], "num_hidden_layers": 2}',
        "[1]",
        "no json",
    ):
        (tmp_path / "config.json").write_text(text)
        assert problem(["nope"], tmp_path) is None


@pytest.mark.parametrize("kind", sorted(target_modules.LAYERS))
def test_the_table_is_what_transformers_builds(kind: str, tmp_path: Path) -> None:
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "num_hidden_layers": 2}))
    kinds = (nn.Linear, nn.Embedding)
    built = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    assert set(target_modules.names(tmp_path)) == built


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_one_line_before_anything_is_loaded(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    (tmp_path / "a.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    path.write_text(
        "model: {name: tiny}\ndata: {train: a.jsonl}\nlora:\n  target_modules: [q_proj, vproj]\n"
    )
    assert run([verb, str(path)]) == 2
    error = capsys.readouterr().err
    assert "`vproj`, which no layer" in error and "did you mean `v_proj`?" in error
    assert verb == "plan" or f"{path}:4" in error
