"""The adapters' dropout: right rate, right gradient, one draw for siblings, repeatable."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lorawright import dropout, hub, model
from lorawright.config.schema import LoraSettings
from lorawright.dropout import SharedDropout, keep_mask


def test_rate() -> None:
    torch.manual_seed(0)
    for rate in (0.05, 0.5, 0.9):
        kept = keep_mask(torch.Size([1003, 997]), rate).float()
        assert abs(float(kept.mean()) - (1 - rate)) < 3 * (rate * (1 - rate) / kept.numel()) ** 0.5
    assert keep_mask(torch.Size([5, 7]), 0.0).all()


def test_elements_are_independent() -> None:
    """Neighbours share a random integer, not their fate."""
    torch.manual_seed(0)
    kept = keep_mask(torch.Size([400_000]), 0.5).float()
    for lag in (1, 2, 3, 4):
        assert abs(float(torch.corrcoef(torch.stack([kept[:-lag], kept[lag:]]))[0, 1])) < 0.01


def test_output_and_gradient() -> None:
    layer = SharedDropout(0.5)
    x = torch.ones(64, 32, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    layer.eval()
    assert layer(x) is x


def test_one_draw_for_the_tensor_seen_last() -> None:
    layer = SharedDropout(0.5)
    x, other = torch.ones(100), torch.ones(100)
    first = layer(x)
    assert layer(x) is first
    assert not torch.equal(layer(other), first)
    torch.manual_seed(3)
    again = layer(x)
    layer(other)
    torch.manual_seed(3)
    assert torch.equal(layer(x), again)


def _adapter() -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    return model.add_adapter(base, LoraSettings(dropout=0.3), seed=0)


def test_siblings_share_and_the_adapter_stays_pefts(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Four draws a layer, not seven; saved and loaded by plain PEFT."""
    tuned = _adapter()
    draws: list[torch.Size] = []
    real = dropout.keep_mask
    monkeypatch.setattr(dropout, "keep_mask", lambda s, r: draws.append(s) or real(s, r))
    tuned.train()
    tuned(torch.arange(5, 25)[None])
    assert len(draws) == 4 * tuned.config.num_hidden_layers
    tuned.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, tuned.eval()(ids).logits)


def test_without_dropout_it_is_pefts_own_forward() -> None:
    ids = torch.arange(5, 25)[None]
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    torch.manual_seed(0)
    plain = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear")).train()
    expected = plain(ids).logits
    dropout.share(plain, 0.0)
    assert torch.equal(plain(ids).logits, expected)
