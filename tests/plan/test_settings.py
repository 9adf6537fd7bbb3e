"""What a machine and a model make of `auto`: one table, and the facts behind it."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorawright import hardware, hub
from lorawright import hardware as machine
from lorawright.cli import doctor
from lorawright.config import Config
from lorawright.config.schema import Dtype, ModelSettings
from lorawright.errors import ConfigError, ModelError
from lorawright.hardware import Device, Hardware
from lorawright.model import attention, segment, tuned
from lorawright.model.attention import PassShape
from lorawright.plan import architecture, run_plan, settings
from lorawright.plan import attention as choice
from lorawright.plan.attention import Attention
from lorawright.run.events import Event, Noted

GB = 10**9
LONG_ROPE = {
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 48,
}
MACHINES = {
    "T4": Hardware(Device.CUDA, "Tesla T4", False, 15 * GB, 1, 4, 75),
    "V100": Hardware(Device.CUDA, "Tesla V100", False, 32 * GB, 1, 8, 70),
    "A100": Hardware(Device.CUDA, "NVIDIA A100", True, 80 * GB, 1, 8, 80),
    "H100": Hardware(Device.CUDA, "NVIDIA H100", True, 80 * GB, 1, 8, 90),
    "MPS": Hardware(Device.MPS, "Apple GPU", True, 16 * GB, 1, 8),
    "CPU": Hardware(Device.CPU, "a CPU", True, 16 * GB, 1, 8),
    "old CPU": Hardware(Device.CPU, "a CPU", False, 16 * GB, 1, 8),
}
QWEN2 = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"model_type": "qwen2", **QWEN2},
    "window": {"model_type": "mistral", "sliding_window": 64, **QWEN2},
    "default window": {"model_type": "mistral", **QWEN2},  # Transformers' default: 4,096
    "no window": {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False},
    "capped": {"model_type": "gemma2", "head_dim": 16, **QWEN2},
    "sinks": {"model_type": "gpt_oss", "head_dim": 16, **QWEN2},
    "chunks": {"model_type": "llama4_text", "head_dim": 16, **QWEN2},
    "silent window": {"model_type": "qwen2_moe", "use_sliding_window": True, **QWEN2},
    "state": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], **QWEN2},
    "own": {"model_type": "bloom", "n_layer": 2, "n_head": 4, "hidden_size": 64},
    "wide heads": {"model_type": "qwen3", "head_dim": 512, **QWEN2},
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(MODELS[name]))
        return tmp_path

    return make


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """flash_attn as it may be found: `missing`, `works`, `broken` or `empty`."""

    def make(how: str) -> None:
        real = builtins.__import__

        def found(name: str, *args: Any, **kwargs: Any) -> Any:
            if name != "flash_attn":
                return real(name, *args, **kwargs)
            if how == "broken":
                raise ImportError("undefined symbol: _ZN3c105ErrorC2E")
            if how == "missing":
                raise ModuleNotFoundError("No module named 'flash_attn'")
            return SimpleNamespace(flash_attn_varlen_func=print) if how == "works" else machine

        monkeypatch.setattr(builtins, "__import__", found)
        choice.varlen_kernel.cache_clear()

    yield make
    choice.varlen_kernel.cache_clear()


def config(**model: Any) -> Config:
    return Config.model_validate({"model": {"name": "tiny", **model}})


OWN, SEGMENTS, VARLEN = Attention
ADAM, PAGED = "adamw_torch_fused", "paged_adamw_8bit"
TABLE = [
    # machine, model.dtype, model → dtype, attention, optimizer, shares, one chat a pass
    ("T4", "auto", "plain", "float16", SEGMENTS, PAGED, True, False),
    ("V100", "auto", "plain", "float16", SEGMENTS, PAGED, True, False),
    ("T4", "float32", "plain", "float32", SEGMENTS, PAGED, True, False),
    ("T4", "auto", "window", "float16", SEGMENTS, PAGED, True, False),
    ("A100", "auto", "plain", "bfloat16", VARLEN, PAGED, True, False),
    ("H100", "auto", "plain", "bfloat16", VARLEN, PAGED, True, False),
    ("A100", "float16", "plain", "float16", VARLEN, PAGED, True, False),
    ("A100", "float32", "plain", "float32", SEGMENTS, PAGED, True, False),
    ("H100", "float32", "plain", "float32", SEGMENTS, PAGED, True, False),
    ("A100", "auto", "window", "bfloat16", VARLEN, PAGED, True, False),
    ("A100", "auto", "default window", "bfloat16", VARLEN, PAGED, True, False),
    ("A100", "auto", "capped", "bfloat16", SEGMENTS, PAGED, True, False),
    ("A100", "auto", "sinks", "bfloat16", SEGMENTS, PAGED, True, False),
    ("A100", "auto", "chunks", "bfloat16", OWN, PAGED, False, False),
    ("A100", "auto", "silent window", "bfloat16", OWN, PAGED, False, False),
    ("A100", "auto", "no window", "bfloat16", VARLEN, PAGED, True, False),
    ("A100", "auto", "wide heads", "bfloat16", SEGMENTS, PAGED, True, False),
    ("A100", "auto", "state", "bfloat16", OWN, PAGED, False, True),
    ("A100", "auto", "own", "bfloat16", OWN, PAGED, False, True),
    ("MPS", "auto", "plain", "bfloat16", SEGMENTS, ADAM, True, False),
    ("MPS", "float16", "plain", "float16", SEGMENTS, ADAM, True, False),
    ("CPU", "auto", "plain", "bfloat16", SEGMENTS, ADAM, True, False),
    ("CPU", "auto", "capped", "bfloat16", SEGMENTS, ADAM, True, False),
    ("CPU", "auto", "sinks", "bfloat16", SEGMENTS, ADAM, True, False),
    ("old CPU", "auto", "plain", "float32", SEGMENTS, ADAM, True, False),
    ("old CPU", "auto", "state", "float32", OWN, ADAM, False, True),
]


@pytest.mark.parametrize(
    ("name", "dtype", "model", "numbers", "attends", "optimizer", "shares", "alone"), TABLE
)
def test_choices(
    folder: Callable[[str], Path],
    flash: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: str,
    model: str,
    numbers: str,
    attends: str,
    optimizer: str,
    shares: bool,
    alone: bool,
) -> None:
    flash("missing")
    monkeypatch.setattr(settings, "find_spec", lambda package: package)  # bitsandbytes is there
    made = settings.settle(config(dtype=dtype), MACHINES[name], folder(model), 100)
    assert made.config.model.dtype == numbers
    assert choice.of(made.config, MACHINES[name], folder(model)) == attends
    assert made.config.training.optimizer == optimizer
    assert made.config.training.share_prefixes is shares
    assert (made.config.training.tokens_per_pass == 1) is alone
    assert ("training.share_prefixes" in made.reasons) is not shares
    if alone:
        assert "one chat a pass" in made.reasons["training.tokens_per_pass"]
        assert made.memory is None or made.memory.tokens_per_pass == 100


@pytest.mark.parametrize(
    ("how", "model", "attends"),
    [("works", "capped", VARLEN), ("works", "sinks", SEGMENTS), ("missing", "capped", SEGMENTS)],
)
def test_caps_are_flash_attns_alone_and_sinks_no_kernels(
    folder: Callable[[str], Path],
    flash: Callable[[str], None],
    how: str,
    model: str,
    attends: Attention,
) -> None:
    flash(how)
    known, gpu = architecture.read(folder(model)), MACHINES["A100"]
    assert choice.choose(known, gpu.device, Dtype.BFLOAT16, gpu.capability) is attends


@pytest.mark.parametrize(
    ("how", "kernel"),
    [
        ("works", "FlashAttention varlen"),
        ("broken", "PyTorch's varlen attention"),
        ("empty", "PyTorch's varlen attention"),
        ("missing", "PyTorch's varlen attention"),
    ],
)
def test_a_flash_attn_that_does_not_work_is_not_used(
    flash: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, how: str, kernel: str
) -> None:
    """A build for another PyTorch, or FlashAttention 4's package: PyTorch's own, and doctor too."""
    flash(how)
    monkeypatch.setattr(hardware, "detect", lambda: MACHINES["A100"])
    there = {"torch.nn.attention.varlen"} | ({"flash_attn"} if how != "missing" else set())
    monkeypatch.setattr(choice, "find_spec", lambda name: name if name in there else None)
    found = doctor.examine()
    assert found["auto"]["attention"] == kernel
    broken = any("cannot be imported" in note for note in found["notes"])
    assert broken is (how in ("broken", "empty"))


def test_float16_is_not_trained_with_divided_weights(folder: Callable[[str], Path]) -> None:
    machines = replace(MACHINES["T4"], num_devices=2)
    divided = config().model_copy(
        update={"distributed": config().distributed.model_copy(update={"strategy": "fsdp2"})}
    )
    with pytest.raises(ConfigError, match="float16"):
        settings.settle(divided, machines, folder("plain"), 100)


@pytest.mark.parametrize("longest", [40, 64])
def test_rotations_by_the_longest_chat(tmp_path: Path, longest: int) -> None:
    """Beyond the original window such a model computes a chat by its neighbours' length."""
    rope = {"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4, **LONG_ROPE}
    values = {**QWEN2, "model_type": "phi3", "rope_parameters": rope, "pad_token_id": 0}
    values |= {"original_max_position_embeddings": 48}
    (tmp_path / "config.json").write_text(json.dumps(values))
    made = settings.settle(config(dtype="float32"), MACHINES["CPU"], tmp_path, longest)
    assert (made.config.training.tokens_per_pass == 1) is (longest > 48)


def test_rotations_by_all_chats_so_far_are_refused(tmp_path: Path) -> None:
    """`dynamic` keeps the factors of the longest chat: order and resume would change results."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    values = {**QWEN2, "model_type": "llama", "rope_parameters": rope}
    values |= {"max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(values))
    made = settings.settle(config(dtype="float32"), MACHINES["CPU"], tmp_path, 64)
    assert made.config.training.tokens_per_pass != 1
    with pytest.raises(ModelError, match="llama") as error:
        settings.settle(config(dtype="float32"), MACHINES["CPU"], tmp_path, 65)
    assert "`data.max_length: 64`" in str(error.value.hint)


def test_keys_for_all_heads_attend_as_grouped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below sm80 and in float32 PyTorch has no kernel for grouped keys on CUDA but `math`."""
    torch.manual_seed(0)
    query, (key, value) = torch.randn(1, 8, 20, 16), torch.randn(2, 1, 2, 20, 16)
    shape = PassShape((12, 8), ((0,), (0, 1)))
    asked: list[bool] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, enable_gqa: bool, **kwargs: Any) -> torch.Tensor:
        asked.append(enable_gqa)
        return real(*args, enable_gqa=enable_gqa, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    inputs = (torch.nn.Identity(), query, key, value, None)
    grouped, _ = attention.attend(*inputs, pass_shape=shape)
    monkeypatch.setattr(segment, "_takes_groups", lambda *_: False)
    repeated, _ = attention.attend(*inputs, pass_shape=shape)
    assert torch.allclose(grouped, repeated, atol=1e-6)
    assert asked == [True, True, False, False]


@pytest.mark.parametrize(
    ("dtype", "capability", "masked", "grouped"),
    [
        (torch.float16, 75, False, False),
        (torch.float32, 90, False, False),
        (torch.bfloat16, 80, False, True),
        (torch.bfloat16, 80, True, False),
    ],
)
def test_which_kernels_take_grouped_keys(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    capability: int,
    masked: bool,
    grouped: bool,
) -> None:
    monkeypatch.setattr(segment, "_capability", lambda device: capability)
    query: Any = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    mask = torch.ones(1) if masked else None
    assert segment._takes_groups(query, mask) is grouped


def stub_cuda(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> list[int]:
    """A torch.cuda with so many GPUs; returns whose memory this process asks for."""
    asked: list[int] = []

    def mem_get_info(gpu: int = 0) -> tuple[int, int]:
        asked.append(gpu)
        return free[gpu], 80 * GB

    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: len(free),
        "get_device_capability": lambda gpu: (8, 0) if gpu else (7, 5),
        "get_device_name": lambda: "a GPU",
        "is_bf16_supported": lambda including_emulation: True,
        "mem_get_info": mem_get_info,
        "get_device_properties": lambda gpu: SimpleNamespace(total_memory=80 * GB),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return asked


def test_launcher_makes_no_context_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several GPUs another process asks; the fullest of them counts, the oldest decides."""
    asked = stub_cuda(monkeypatch, [70 * GB, 30 * GB])
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(stdout=f"{30 * GB}\n")

    monkeypatch.setattr(subprocess, "run", run)
    found = hardware.detect()
    assert not asked
    assert commands[0][:2] == [sys.executable, "-c"]
    assert (found.memory_bytes, found.num_devices, found.capability) == (30 * GB, 2, 75)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="no driver"))
    assert hardware.detect().memory_bytes == 80 * GB
    one = stub_cuda(monkeypatch, [70 * GB])
    assert hardware.detect().memory_bytes == 70 * GB
    assert one == [0]


@pytest.mark.parametrize("name", ["T4", "A100", "old CPU"])
def test_chat_and_evaluate_choose_the_same_dtype(name: str) -> None:
    found = tuned.with_dtype(ModelSettings(name="tiny"), MACHINES[name]).dtype
    expected = {"T4": Dtype.FLOAT16, "A100": Dtype.BFLOAT16, "old CPU": Dtype.FLOAT32}
    assert found is expected[name]


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} 100\n")


@pytest.mark.parametrize(("version", "line"), [(2, "0::/a/b"), (1, "4:cpu,memory:/a/b")])
def test_containers_limit_counts(tmp_path: Path, version: int, line: str) -> None:
    """The least that any group above the process has left; its cache is given back first."""
    names = machine.V2 if version == 2 else machine.V1
    mount = tmp_path / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    everything = machine.free_memory(tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{line}\n")
    group(mount / "a/b", names, "max" if version == 2 else "9223372036854771712", 900)
    group(mount / "a", names, "1000", 900)
    assert machine.free_memory(tmp_path) == 200
    assert everything > 10**6
    (mount / "a" / names[0]).unlink()
    assert machine.free_memory(tmp_path) > 10**6


def test_a_run_that_does_not_fit_is_warned_of(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(MACHINES["CPU"], memory_bytes=GB)
    monkeypatch.setattr(hardware, "detect", lambda: small)
    warnings: list[str] = []

    def keep(event: Event) -> None:
        if isinstance(event, Noted) and event.is_warning:
            warnings.append(event.text)

    made = make_config()
    run_plan.make(made, keep)
    assert not warnings
    large = made.model_copy(update={"lora": made.lora.model_copy(update={"rank": 100_000})})
    run_plan.make(large, keep)
    assert "1.0 GB are free" in warnings[0] and "`lora.rank`" in warnings[0]


def test_bundled_model_is_a_plain_one() -> None:
    assert choice.of(config(), MACHINES["CPU"], hub.model_folder("tiny")) == SEGMENTS
