"""torch.compile: chosen where it pays, equal in its results, and never a crash."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.hardware import Device
from lorawright.model import compiled


@pytest.mark.parametrize(
    ("wish", "seconds", "device", "compiler", "expected"),
    [
        (True, None, Device.CPU, False, True),
        (False, 1e6, Device.CPU, True, False),
        ("auto", 1e5, Device.CPU, True, True),
        ("auto", 1e5, Device.CPU, False, False),
        ("auto", 1e5, Device.CUDA, False, True),
        ("auto", 100.0, Device.CPU, True, False),
        ("auto", None, Device.CPU, True, False),
    ],
)
def test_pays(
    monkeypatch: pytest.MonkeyPatch,
    wish: bool | str,
    seconds: float | None,
    device: Device,
    compiler: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/g++" if compiler else None)
    decided, reason = compiled.pays(wish, seconds, device)
    assert decided is expected and reason


def tiny() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch.compile imports torch's own old names
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a compiler")
def test_compiled_norms_compute_the_same() -> None:
    ids = torch.arange(5, 45)[None]
    expected = tiny()(ids).logits
    model = tiny()
    assert compiled.install(model, Device.CPU) is None
    assert torch.allclose(model(ids).logits, expected, atol=1e-4)


def test_a_compiler_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such compiler\nand a long story")

    monkeypatch.setattr(compiled, "_try", fail)
    ids = torch.arange(5, 45)[None]
    model = tiny()
    note = compiled.install(model, Device.CPU)
    assert note == "torch.compile fails here, going on without: no such compiler"
    assert torch.equal(model(ids).logits, tiny()(ids).logits)
