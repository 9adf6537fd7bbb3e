"""Fused LoRA layers compute what PEFT's own compute, and stay PEFT's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.config.schema import LoraSettings
from lorawright.model import dropout, fused_lora, lora

IDS = torch.arange(5, 45)[None]


def build(partitioned: bool, **settings: Any) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    made = lora.add_adapter(base, LoraSettings(**settings), seed=1, partitioned=partitioned)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return made.train()


def gradients(made: PeftModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    state = dropout.state_of(made)
    if state is not None:
        state.begin_pass(2, [(4, 0, 25), (1, 3, 18)])
    logits = made(IDS).logits
    (logits * torch.linspace(-1, 1, logits.shape[-1])).mean().backward()
    given = {n: p.grad for n, p in made.named_parameters() if p.grad is not None}
    return logits.detach(), given


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.0},
        {"dropout": 0.2},
        {"dropout": 0.2, "use_rslora": True, "target_modules": ["k_proj", "up_proj", "o_proj"]},
        {"dropout": 0.2, "use_dora": True},
    ],
    ids=["plain", "dropout", "rslora", "dora"],
)
def test_equal_to_pefts_own_sum(settings: dict[str, Any]) -> None:
    expected, expected_gradients = gradients(build(True, **settings))
    got, got_gradients = gradients(build(False, **settings))
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert got_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (got_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_siblings_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """q, k, v and gate, up: four products down a layer in place of seven."""
    made = build(False, dropout=0.2)
    counted: list[int] = []
    real: Callable[..., Any] = fused_lora._Group._product
    monkeypatch.setattr(
        fused_lora._Group, "_product", lambda *a: counted.append(len(a[0].layers)) or real(*a)
    )
    gradients(made)
    assert counted == [3, 1, 2, 1] * made.config.num_hidden_layers


def test_plain_peft_loads_what_is_saved(tmp_path: Path) -> None:
    made = build(False, dropout=0.2)
    made.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.allclose(plain(IDS).logits, made.eval()(IDS).logits, atol=1e-5)


def test_adapter_moves_as_in_float32_at_a_small_learning_rate() -> None:
    """Base in bfloat16, adapter in float32: AdamW's steps at 2e-5 are those of float32 training.

    A bfloat16 adapter does not move: an update is below its resolution.
    """

    def moved(base_dtype: torch.dtype, adapter_dtype: torch.dtype) -> torch.Tensor:
        base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=base_dtype)
        made = lora.add_adapter(base, LoraSettings(dropout=0.0), seed=1).train()
        weights = [p for name, p in made.named_parameters() if "lora_A" in name]
        for name, parameter in made.named_parameters():
            parameter.data = parameter.data.to(adapter_dtype if "lora_" in name else base_dtype)
            if "lora_B" in name:
                torch.manual_seed(0)
                parameter.data.normal_(0, 0.05)
        before = [weight.detach().clone().float() for weight in weights]
        optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=2e-5)
        for _ in range(10):
            with torch.autocast("cpu", torch.bfloat16, enabled=base_dtype is torch.bfloat16):
                loss = made(IDS, labels=IDS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        pairs = zip(weights, before, strict=True)
        return torch.cat([(w.detach().float() - b).flatten() for w, b in pairs])

    exact = moved(torch.float32, torch.float32)
    shipped = moved(torch.bfloat16, torch.float32)
    narrow = moved(torch.bfloat16, torch.bfloat16)
    assert torch.cosine_similarity(shipped, exact, dim=0) > 0.95
    assert float(shipped.norm() / exact.norm()) == pytest.approx(1, abs=0.05)
    assert float((narrow == 0).float().mean()) > 0.5
