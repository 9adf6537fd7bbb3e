"""The adapters' dropout: right rate, right gradient, one mask for siblings, keyed by the chat."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.config.schema import LoraSettings
from lorawright.model import dropout, lora
from lorawright.model.dropout import DropoutState, KeyedDropout

CPU = torch.device("cpu")


def mask(rate: float, bounds: tuple[int, ...], width: int, number: int = 0) -> torch.Tensor:
    state = DropoutState(seed=1)
    sizes = [end - start for start, end in pairwise(bounds)]
    state.begin_pass(3, [(chat, 0, size) for chat, size in enumerate(sizes)])
    return KeyedDropout(rate, number, state).keep_mask(bounds[-1], width, CPU)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_rate(rate: float) -> None:
    kept = -mask(rate, (0, 400, 1003), 997).float()
    assert abs(float(kept.mean()) - (1 - rate)) < 3 * (rate * (1 - rate) / kept.numel()) ** 0.5


def test_a_rate_below_the_random_bits_keeps_everything() -> None:
    assert bool((mask(1e-6, (0, 40), 997) == -1).all())


def test_elements_are_independent() -> None:
    """Neighbours share a random word, not their fate; nor do adapters."""
    kept = mask(0.5, (0, 400), 1000).float().flatten()
    for lag in (1, 2, 3, 4, 1000):
        assert abs(float(torch.corrcoef(torch.stack([kept[:-lag], kept[lag:]]))[0, 1])) < 0.01
    other = mask(0.5, (0, 400), 1000, number=1).float().flatten()
    assert abs(float(torch.corrcoef(torch.stack([kept, other]))[0, 1])) < 0.01


def test_a_chats_mask_is_its_own_in_any_pass() -> None:
    state = DropoutState(seed=1)
    layer = KeyedDropout(0.5, 2, state)
    state.begin_pass(5, [(7, 0, 10), (4, 0, 20)])
    together = layer.keep_mask(30, 6, CPU)
    state.begin_pass(5, [(4, 0, 20)])
    assert torch.equal(layer.keep_mask(20, 6, CPU), together[10:])
    state.begin_pass(5, [(4, 7, 20)])
    assert torch.equal(layer.keep_mask(13, 6, CPU), together[17:])
    state.begin_pass(6, [(4, 0, 20)])
    assert not torch.equal(layer.keep_mask(20, 6, CPU), together[10:])


def test_output_and_gradient() -> None:
    state = DropoutState(seed=0)
    state.begin_pass(0, [(0, 0, 64)])
    layer = KeyedDropout(0.5, 0, state)
    x = torch.ones(1, 64, 32, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    layer.eval()
    assert layer(x) is x


def _base() -> object:
    return AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)


def test_siblings_share_and_the_adapter_stays_pefts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four masks a layer, not seven; saved and loaded by plain PEFT."""
    tuned = lora.add_adapter(_base(), LoraSettings(dropout=0.3), seed=0)
    keys: list[tuple[int, ...]] = []
    real = dropout._random_bits
    monkeypatch.setattr(dropout, "_random_bits", lambda k, *rest: keys.append(k) or real(k, *rest))
    state = dropout.state_of(tuned)
    assert state is not None
    state.begin_pass(0, [(9, 0, 20)])
    ids = torch.arange(5, 25)[None]
    tuned.train()(ids)
    assert len(keys) == len(set(keys)) == 4 * tuned.config.num_hidden_layers
    tuned.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(_base(), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, tuned.eval()(ids).logits)


def test_without_dropout_it_is_pefts_own_forward() -> None:
    ids = torch.arange(5, 25)[None]
    torch.manual_seed(0)
    plain = get_peft_model(_base(), LoraConfig(r=8, target_modules="all-linear")).train()
    expected = plain(ids).logits
    dropout.install(plain, 0.0, seed=0)
    assert torch.equal(plain(ids).logits, expected)
