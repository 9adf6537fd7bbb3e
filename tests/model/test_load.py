"""Loading a base: where its tensors go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorawright import hub
from lorawright.config.schema import Dtype, ModelSettings, Quantization
from lorawright.errors import ModelError
from lorawright.hardware import Device
from lorawright.model import load

TINY = ModelSettings(name="tiny", dtype=Dtype.FLOAT32)


@pytest.mark.parametrize(
    ("device", "quantization", "divided", "expected"),
    [
        (Device.CUDA, Quantization.NONE, "", {"": 3}),
        (Device.CUDA, Quantization.NF4, "", None),
        (Device.CUDA, Quantization.NONE, "is_deepspeed_zero3_enabled", None),
        (Device.CUDA, Quantization.NONE, "is_fsdp_enabled", None),
        (Device.CPU, Quantization.NONE, "", None),
    ],
)
def test_a_base_goes_straight_to_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
    device: Device,
    quantization: Quantization,
    divided: str,
    expected: dict[str, int] | None,
) -> None:
    asked: dict[str, Any] = {}

    def spy(*_: Any, **more: Any) -> Any:
        asked.update(more)
        raise ValueError("asked")

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", spy)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    if divided:
        monkeypatch.setattr(load, divided, lambda: True)
    settings = TINY.model_copy(update={"quantization": quantization})
    with pytest.raises(ModelError, match="asked"):
        load.load_base(settings, hub.model_folder("tiny"), device, training=False)
    assert asked["device_map"] == expected


def test_weights_are_the_same_by_a_device_map(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.model_folder("tiny")
    plain = load.load_base(TINY, folder, Device.CPU, training=False)
    monkeypatch.setattr(load, "_device_map", lambda *_: {"": "cpu"})
    mapped = load.load_base(TINY, folder, Device.CPU, training=False)
    expected = plain.state_dict()
    assert mapped.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in mapped.state_dict().items())
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(mapped(ids).logits, plain(ids).logits)
