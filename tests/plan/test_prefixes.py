"""Shared prefixes: the tree holds every chat once, a layout all of it, and steps stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lorawright.config import Config
from lorawright.model import attention, varlen
from lorawright.model.attention import PassShape
from lorawright.model.segment import Rules
from lorawright.model.varlen import VarlenIndex
from lorawright.plan import run_plan
from lorawright.plan.packing import MIN_SAVED_TOKENS, Pass, PassKind, lay_out
from lorawright.plan.prefixes import MIN_SHARED_TOKENS, Tree, grow
from lorawright.run.events import silent
from lorawright.training import train

quick = settings(max_examples=150, derandomize=True, deadline=None)
# blocks of equal tokens, so that chats begin alike, end inside one another, and repeat
chats = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=12)


def spelled(blocks: list[str], size: int = 20) -> np.ndarray:
    return np.concatenate([*(np.full(size, ord(block)) for block in blocks), [len(blocks)]])


def tree_of(texts: list[np.ndarray]) -> Tree:
    return grow(range(len(texts)), texts.__getitem__, [len(text) for text in texts])


def test_tree_by_hand() -> None:
    texts = [spelled([*"ab"]), spelled([*"ac"]), spelled([*"b"]), np.array([9, 9])]
    made = tree_of(texts)
    assert [(s.chat, s.start, s.end, s.parent) for s in made.segments] == [
        (0, 0, 20, -1),
        (0, 20, 41, 0),
        (1, 20, 41, 0),
        (2, 0, 21, -1),
        (3, 0, 2, -1),
    ]
    assert made.paths == {0: (0, 1), 1: (0, 2), 2: (3,), 3: (4,)}


@quick
@given(chats, st.sampled_from([5, 20]))
def test_every_path_spells_its_chat(blocks: list[list[str]], size: int) -> None:
    texts = [spelled(one, size) for one in blocks]
    made = tree_of(texts)
    for chat, path in made.paths.items():
        parts = [made.segments[number] for number in path]
        assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
        read = np.concatenate([texts[part.chat][part.start : part.end] for part in parts])
        assert np.array_equal(read, texts[chat])
        assert [part.parent for part in parts] == [-1, *path[:-1]]
        assert all(part.chat <= chat for part in parts)
    shared = [n for path in made.paths.values() for n in path]
    for number, segment in enumerate(made.segments):
        assert segment.parent < number
        assert shared.count(number) == 1 or len(segment) >= MIN_SHARED_TOKENS


def test_equal_long_beginnings_are_one_segment() -> None:
    texts = [np.concatenate([np.arange(100), [chat]]) for chat in range(9)]
    assert tree_of(texts).num_tokens == 100 + 9


@quick
@given(chats, st.integers(1, 200), st.integers(1, 4))
def test_layout_holds_everything(blocks: list[list[str]], capacity: int, num_ranks: int) -> None:
    made = tree_of([spelled(one) for one in blocks])
    ranks = lay_out(made, capacity, num_ranks)
    assert len({tuple(one.kind for one in passes) for passes in ranks}) == 1
    owners = [{chat for one in passes for chat in one.chats} for passes in ranks]
    assert sorted(chat for chats in owners for chat in chats) == sorted(made.paths)
    for passes, mine in zip(ranks, owners, strict=True):
        for chat in mine:
            holding = [one for one in passes if chat in one.chats]
            held = sorted(n for one in holding for n in one.segments if n in made.paths[chat])
            assert held == sorted(made.paths[chat])
        for one in passes:
            check_pass(one, made, capacity)


def check_pass(one: Pass, tree: Tree, capacity: int) -> None:
    assert one.num_tokens == sum(len(tree.segments[n]) for n in one.segments)
    assert len(one.chats) == 1 or one.num_tokens <= capacity or one.kind is PassKind.PLAIN
    if len(one.chats) > 1:
        assert one.num_tokens <= capacity
    there = {-1, *one.before}
    for number in one.segments:
        assert tree.segments[number].parent in there
        there.add(number)


def test_common_prefix_has_passes_of_its_own() -> None:
    """Eight chats behind 400 tokens, two a pass: the prefix once forward, once with gradient."""
    texts = [np.concatenate([np.arange(400), np.full(100, 1000 + chat)]) for chat in range(8)]
    (passes,) = lay_out(tree_of(texts), 400)
    kinds = [one.kind for one in passes]
    assert kinds == [PassKind.COLLECT, PassKind.PLAIN, PassKind.PLAIN, PassKind.INJECT]
    assert [one.num_tokens for one in passes] == [400, 400, 400, 400]
    (alone,) = lay_out(tree_of([text[-150:] for text in texts]), 300)
    assert {one.kind for one in alone} == {PassKind.PLAIN}, f"saves under {MIN_SAVED_TOKENS} tokens"


SYSTEM = "You are the clerk of a small bookshop. " + " ".join(
    f"Rule {number}: be kind, be short, and name a book when you can." for number in range(14)
)


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Config]:
    """Chats behind one long system prompt; some are beginnings of others, one stands twice."""
    rows = []
    for number in range(10):
        turns = [
            {"role": "user", "content": f"Do you have book {number % 5}?"},
            {"role": "assistant", "content": f"Yes, book {number % 5} is here."},
            {"role": "user", "content": f"And number {number}?"},
            {"role": "assistant", "content": f"Number {number} too, on shelf {number * 7}."},
        ]
        kept = turns[: 2 if number in (3, 4) else 4]
        rows.append({"messages": [{"role": "system", "content": SYSTEM}, *kept]})
    path = write_jsonl(tmp_path / "shop.jsonl", [*rows, rows[0]])

    def make(**training: object) -> Config:
        lora = {"dropout": training.pop("dropout", 0.0)}
        values = {"epochs": 10, "batch_size": 6, "learning_rate": 1e-3, "trackers": [], **training}
        return Config.model_validate(
            {
                "model": {"name": "tiny", "dtype": "float32"},
                "data": {"train": str(path)},
                "lora": lora,
                "training": values,
            }
        )

    return make


def curves(config: Config) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    folder = train.run(config).folder
    lines = [line for line in folder.read_metrics() if "loss" in line]
    weights = load_file(folder.adapter / "adapter_model.safetensors")
    return np.array([(line["loss"], line["grad_norm"]) for line in lines]), weights


PLAIN: list[Any] = []  # the run that the others are held against, made once


@pytest.mark.parametrize("how", ["in a pass", "across passes", "checkpointing"])
def test_sharing_leaves_the_steps_as_they_are(
    shop: Callable[..., Config], tmp_path: Path, how: str
) -> None:
    """20 steps against one chat a pass and nothing shared, float32, dropout 0."""
    capacity = 8192 if how == "in a pass" else 400
    shared = shop(
        tokens_per_pass=capacity,
        gradient_checkpointing=how == "checkpointing",
        output=str(tmp_path / "shared"),
    )
    plan = run_plan.make(shared, silent).steps
    kinds = {one.kind for step in plan for one in step.passes[0]}
    assert (PassKind.COLLECT in kinds) == (how != "in a pass")
    assert sum(s.num_computed_tokens for s in plan) < 0.6 * sum(s.num_tokens for s in plan)
    if not PLAIN:
        plain = shop(share_prefixes=False, tokens_per_pass=1, output=str(tmp_path / "plain"))
        PLAIN.extend(curves(plain))
    expected, weights = PLAIN
    got, others = curves(shared)
    assert len(expected) == 20
    assert np.allclose(got, expected, rtol=1e-5, atol=0)
    for name, tensor in weights.items():
        assert (others[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


def test_with_dropout_passes_still_change_nothing(
    shop: Callable[..., Config], tmp_path: Path
) -> None:
    """A shared prefix is drawn once a step, however its passes lie."""
    one = shop(epochs=2, dropout=0.1, tokens_per_pass=8192, output=str(tmp_path / "one"))
    many = shop(epochs=2, dropout=0.1, tokens_per_pass=400, output=str(tmp_path / "many"))
    assert np.allclose(curves(many)[0], curves(one)[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_varlen_index_means_the_same(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    """The gathered keys of a varlen call, by a plain kernel, against attention by segments."""
    shape = PassShape((4, 3, 5), ((0, 1), (0, 1, 2), (0, 1, 3)), before=(2,))
    torch.manual_seed(0)
    query = torch.randn(1, 4, 12, 8)
    key, value = torch.randn(2, 1, 2, 14, 8)

    def kernel(
        query_TND: torch.Tensor,
        key_KMD: torch.Tensor,
        value_KMD: torch.Tensor,
        index: VarlenIndex,
        rules: Rules,
    ) -> torch.Tensor:
        outputs = []
        edges = zip(index.cumulative_queries.tolist(), index.cumulative_keys.tolist(), strict=True)
        (q0, k0), *rest = edges
        for q1, k1 in rest:
            scores = torch.einsum(
                "qnd,knd->nqk", query_TND[q0:q1], key_KMD[k0:k1].repeat_interleave(2, 1)
            )
            own = k1 - k0 - q1 + q0
            seen = torch.ones(q1 - q0, k1 - k0).tril(own).bool()
            if rules.window is not None:
                seen = seen.triu(own - rules.window + 1)
            assert rules.scale is not None
            weights = (scores * rules.scale).masked_fill(~seen, -torch.inf).softmax(-1)
            outputs.append(
                torch.einsum("nqk,knd->qnd", weights, value_KMD[k0:k1].repeat_interleave(2, 1))
            )
            q0, k0 = q1, k1
        return torch.cat(outputs)

    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    module = torch.nn.Identity()
    inputs = (module, query, key, value, None)
    asked: dict[str, Any] = {"scaling": 0.3, "dropout": 0.0, "sliding_window": window}
    expected, _ = attention.attend(*inputs, **asked, pass_shape=shape)
    got, _ = attention.attend_varlen(*inputs, **asked, pass_shape=shape)
    assert torch.allclose(got, expected, atol=1e-6)


def test_short_segments_attend_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 40, 8).bfloat16()
    shape = PassShape((8, 32), ((0,), (0, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = attention.attend(torch.nn.Identity(), query, key, value, None, pass_shape=shape)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True
    )
    assert got.dtype is torch.bfloat16
    assert torch.allclose(got.transpose(1, 2).float(), expected, rtol=2**-8, atol=1e-6)
