"""Other families than Qwen2: their steps are those of plain Transformers and PEFT, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_jsonl
from small_models import MIXTURES, make_base, plain_losses, settled

from lorawright import hub
from lorawright.config import Config
from lorawright.config.schema import Dtype, LoraSettings, ModelSettings
from lorawright.errors import ModelError
from lorawright.evaluation import losses
from lorawright.evaluation.chats import EvalChat
from lorawright.hardware import Device
from lorawright.model import attention, causal_lm, load, lora, selfcheck
from lorawright.model.attention import PassShape
from lorawright.model.logit_scaling import PLAIN, LogitScaling
from lorawright.plan import adapted, run_plan
from lorawright.plan import attention as choice
from lorawright.plan.attention import Attention
from lorawright.plan.packing import PassKind
from lorawright.run.events import silent
from lorawright.training import train
from lorawright.types import EncodedChat

FAMILIES: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.1},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "bloom": {"n_layer": 2, "n_head": 2},
    "gemma2": {"sliding_window": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_text": {
        "sliding_window": 16,
        "num_hidden_layers": 3,
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 2304,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "mistral": {"sliding_window": 16},
    "phi3": {"sliding_window": 16},
    "qwen2": {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},  # dropout 0.1
    **MIXTURES,
}
SHARING = ("gemma2", "gemma3_text", "gemma4_text", "mistral", "phi3", "qwen2", "gpt_oss", "cohere2")
"""Families with windows, caps or sinks that our attention computes."""


def exact(make_config: Callable[..., Config], base: Path, **training: Any) -> Config:
    """Two steps of eight chats without what would blur a comparison."""
    return settled(
        make_config(
            8, batch_size=4, logging_steps=1, schedule="constant", warmup_ratio=0.0,
            weight_decay=0.0, optimizer="adamw_torch", epochs=1, **training,
        ),
        base,
    )  # fmt: skip


def step_losses(config: Config) -> list[float]:
    return [line["loss"] for line in train.run(config).folder.read_metrics() if "loss" in line]


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_are_those_of_plain_transformers(
    make_config: Callable[..., Config], tmp_path: Path, name: str
) -> None:
    base = make_base(tmp_path / "base", name, **FAMILIES[name])
    config = exact(make_config, base)
    got = step_losses(config)
    assert got == pytest.approx(plain_losses(config, base), abs=5e-6)
    assert len(got) == 2


def of_one_shop(path: Path) -> Path:
    """Eight chats behind one system prompt, longer than the windows of the families."""
    system = "You sell books. " + " ".join(f"Rule {n}: be kind and short." for n in range(40))
    made = [
        [
            {"role": "system", "content": system},
            {"role": "user", "content": f"Book {number}, " + "please " * 8 * (number % 3 + 1)},
            {"role": "assistant", "content": f"Here is book {number}: " + "a page, " * number},
        ]
        for number in range(8)
    ]
    return write_jsonl(path, [{"messages": messages} for messages in made])


@pytest.mark.parametrize(
    ("name", "capacity", "checkpointing"),
    [*((name, size, False) for name in SHARING for size in (4096, 600)), ("gemma2", 600, True)],
)
def test_windows_caps_and_sinks_in_passes_with_shared_prefixes(
    make_config: Callable[..., Config],
    tmp_path: Path,
    name: str,
    capacity: int,
    checkpointing: bool,
) -> None:
    """The same losses where a prefix is computed once, in one pass and for several passes."""
    base = make_base(tmp_path / "base", name, **FAMILIES[name])
    how = {"tokens_per_pass": capacity, "gradient_checkpointing": checkpointing}
    config = exact(make_config, base, **how)
    shop = str(of_one_shop(tmp_path / "shop.jsonl"))
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": shop})})
    plan = run_plan.make(config, silent)
    assert choice.of(plan.config, plan.settings.hardware, base) is Attention.SEGMENTS
    given = sum(s.num_tokens for s in plan.steps)
    assert sum(s.num_computed_tokens for s in plan.steps) < 0.6 * given
    kinds = {one.kind for step in plan.steps for one in step.passes[0]}
    assert (PassKind.COLLECT in kinds) is (capacity == 600)
    assert step_losses(config) == pytest.approx(plain_losses(config, base), abs=5e-6)


def base_of(name: str, implementation: str, tmp_path: Path, **more: Any) -> Any:
    folder = make_base(tmp_path / name, name, **more)
    settings = ModelSettings(name=str(folder), dtype=Dtype.FLOAT32)
    return load.load_base(
        settings, folder, Device.CPU, training=True, implementation=implementation
    )


def test_a_leak_between_chats_is_found(tmp_path: Path) -> None:
    """Convolutions run along the row; facts would have kept LFM2's chats apart."""
    base = base_of("lfm2", Attention.OWN, tmp_path, **FAMILIES["lfm2"])
    with pytest.raises(ModelError, match="sees the chat before it") as error:
        selfcheck.verify(base, together=True)
    assert "`training.tokens_per_pass: 1`" in str(error.value.hint)
    assert selfcheck.verify(base, together=False).scaling == PLAIN


def test_scaled_logits_are_found_by_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of("granite", Attention.SEGMENTS, tmp_path, **FAMILIES["granite"])
    assert selfcheck.verify(base, together=True).scaling == LogitScaling(1 / 8)
    # by a key that nobody has heard of
    monkeypatch.setattr(causal_lm, "said_scalings", lambda _: [PLAIN])
    assert selfcheck.verify(base, together=True).scaling is None
    capped = base_of("gemma2", Attention.SEGMENTS, tmp_path, **FAMILIES["gemma2"])
    monkeypatch.undo()
    assert selfcheck.verify(capped, together=True).scaling == LogitScaling(1.0, 30.0)


@pytest.mark.parametrize("name", ["granite", "xlstm", "mistral"])
def test_evaluation_takes_the_logits_of_the_model(tmp_path: Path, name: str) -> None:
    """Scaled and capped logits too, where the product with the head's weight is another loss."""
    sizes = {"num_heads": 2, "num_blocks": 2, "chunk_size": 16} if name == "xlstm" else {}
    base = base_of(name, Attention.OWN, tmp_path, **{**FAMILIES.get(name, {}), **sizes}).eval()
    ids = tuple(range(100, 160))
    encoded = EncodedChat(ids, ((20, 30), (40, 60)), "chats.jsonl", 1)
    conversation: Any = None  # its texts are not looked at
    chat = EvalChat(encoded, conversation, ())
    found = losses.measure(base, [chat], 512, lambda number: None)
    with torch.no_grad():
        logits_TV = base(torch.tensor(ids)[None], use_cache=False).logits[0]
    places = torch.tensor([*range(20, 30), *range(40, 60)])
    expected = torch.nn.functional.cross_entropy(logits_TV[places - 1], torch.tensor(ids)[places])
    assert found.trained.figures()["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16])
@pytest.mark.parametrize("implementation", [Attention.SEGMENTS, Attention.OWN])
def test_no_false_alarm(dtype: Dtype, implementation: str) -> None:
    settings = ModelSettings(name="tiny", dtype=dtype)
    base = load.load_base(
        settings, hub.model_folder("tiny"), Device.CPU, training=True, implementation=implementation
    )
    assert selfcheck.verify(base, together=True).scaling == PLAIN
    assert base.config._attn_implementation == (
        Attention.SEGMENTS if implementation == Attention.SEGMENTS else "sdpa"
    )


QUERY, KEYS = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"position_bias": torch.zeros(2)}, "position_bias"),
        ({"attention_chunk_size": 8}, "attention_chunk_size"),
        ({"sliding_window": -1}, "sliding_window: -1"),
        ({"is_causal": False}, "is_causal: False"),
    ],
)
@pytest.mark.parametrize("attend", [attention.attend, attention.attend_varlen])
def test_attention_that_asks_for_more_is_refused(
    attend: Any, keywords: dict[str, Any], named: str
) -> None:
    module, shape = torch.nn.Identity(), PassShape.plain(4)
    harmless = {"sliding_window": None, "position_ids": torch.zeros(1), "output_attentions": False}
    with pytest.raises(ModelError, match=named):
        attend(module, QUERY, KEYS, KEYS, None, pass_shape=shape, **{**harmless, **keywords})
    with pytest.raises(ModelError, match="attention_mask"):
        attend(module, QUERY, KEYS, KEYS, torch.ones(4, 4), pass_shape=shape)
    with pytest.raises(ModelError, match="which tokens of a pass are one chat"):
        attend(module, QUERY, KEYS, KEYS, None)
    output, _ = attention.attend(module, QUERY, KEYS, KEYS, None, pass_shape=shape, **harmless)
    assert output.shape == (1, 4, 2, 8)


def test_a_family_that_no_attention_fits_says_the_way_out(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Doge masks by what it has learned: refused, and trains by its own attention."""
    base = make_base(tmp_path / "base", "doge", keep_window_size=8)
    config = settled(make_config(4, batch_size=4), base)
    with pytest.raises(ModelError, match="attention_mask") as error:
        train.run(config)
    assert "`training.share_prefixes: false`" in str(error.value.hint)
    alone = {"tokens_per_pass": 1, "share_prefixes": False}
    training = config.training.model_copy(update=alone)
    assert train.run(config.model_copy(update={"training": training})).num_steps == 1


def test_base_dropout_is_off_and_said(make_config: Callable[..., Config], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt2", **FAMILIES["gpt2"])
    reasons = run_plan.make(settled(make_config(4), base), silent).settings.reasons
    assert "resid_pdrop 0.1" in reasons["lora.dropout"]
    settings = ModelSettings(name=str(base), dtype=Dtype.FLOAT32)
    loaded = load.load_base(settings, base, Device.CPU, training=True)
    rates = {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["q_proj", "vproj"], "no layer is called `vproj`; did you mean `v_proj`?"),
        (["xyz"], "no layer is called `xyz`"),
        ("[qv]_proj", "`[qv]_proj` as a whole"),
    ],
)
def test_target_modules_that_are_not_there(wanted: Any, message: str) -> None:
    settings = ModelSettings(name="tiny", dtype=Dtype.FLOAT32)
    base = load.load_base(settings, hub.model_folder("tiny"), Device.CPU, training=True)
    with pytest.raises(ModelError) as error:
        adapted.refuse_unknown(base, LoraSettings(target_modules=wanted))
    assert message in error.value.what
    assert "q_proj, k_proj, v_proj, o_proj" in str(error.value.hint)


@pytest.mark.parametrize("wanted", ["all-linear", ["q_proj", "mlp.up_proj"], r".*\.[qv]_proj"])
def test_target_modules_that_are(wanted: Any) -> None:
    settings = ModelSettings(name="tiny", dtype=Dtype.FLOAT32)
    base = load.load_base(settings, hub.model_folder("tiny"), Device.CPU, training=True)
    adapted.refuse_unknown(base, LoraSettings(target_modules=wanted))


def test_a_family_that_transformers_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama9"}')
    with pytest.raises(ModelError, match="llama9"):
        load.load_base(ModelSettings(name="x"), tmp_path, Device.CPU, training=True)


def test_what_was_measured_is_in_the_certificate(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", "gemma2", **FAMILIES["gemma2"])
    folder = train.run(exact(make_config, base)).folder
    found = json.loads(folder.certificate.read_bytes())["model"]
    assert found["measured"] and found["not_called"] == []
    assert found["logits"] == {"scale": 1.0, "cap": 30.0}
    assert found["leak"] < 1e-5 and found["packing"] < 1e-5 and found["seconds"] > 0


def test_an_adapter_that_is_never_called_is_said(tmp_path: Path) -> None:
    base = base_of("mistral", Attention.SEGMENTS, tmp_path, **FAMILIES["mistral"])
    base.model.layers[0].spare = torch.nn.Linear(32, 32)
    model = lora.add_adapter(base, LoraSettings(rank=4), 0)
    assert selfcheck.unreached(model) == ["base_model.model.model.layers.0.spare"]
    assert model.training
