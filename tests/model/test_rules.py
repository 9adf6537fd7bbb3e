"""Windows, caps and sinks: the attention of segments is the formula over all scores at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorawright.errors import ModelError
from lorawright.model import attention, segment, windows
from lorawright.model.attention import PassShape
from lorawright.model.segment import Rules

HEADS, SHARED, SIZE, SCALE = 4, 2, 8, 0.3
SHAPES = {
    "alone": PassShape.plain(23),
    "side by side": PassShape.plain(5, 40, 1),
    "branches": PassShape((30, 4, 25, 9), ((0,), (0, 1), (0, 2), (0, 2, 3))),
    "keys before": PassShape((20, 3), ((0, 1), (0, 2)), before=(33,)),
    "longer than a block": PassShape((560, 150), ((0,), (0, 1))),
}
RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "window": {"sliding_window": 7},
    "wide window": {"sliding_window": 34},
    "block window": {"sliding_window": 130},
    "one token": {"sliding_window": 1},
    "cap": {"softcap": 1.5},
    "cap and window": {"softcap": 1.5, "sliding_window": 11},
    "sinks": {"s_aux": True},
    "all": {"s_aux": True, "softcap": 1.5, "sliding_window": 12},
}


def dense(tensors: list[torch.Tensor], shape: PassShape, rules: dict[str, Any]) -> torch.Tensor:
    """One matrix of scores over all the keys of a pass."""
    query, key, value = (x[0] for x in tensors[:3])
    sizes = [*shape.before, *shape.sizes]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    seen = torch.zeros(query.shape[1], sum(sizes), dtype=torch.bool)
    row = 0
    for size, path in zip(shape.sizes, shape.paths, strict=True):
        keys = [starts[number] + place for number in path for place in range(sizes[number])]
        for number in range(size):
            own = len(keys) - size + number  # place in the chat
            least = max(0, own - (rules.get("sliding_window") or own + 1) + 1)
            seen[row, keys[least : own + 1]] = True
            row += 1
    groups = HEADS // SHARED
    scores = query @ key.repeat_interleave(groups, 0).transpose(1, 2) * SCALE
    if rules.get("softcap"):
        scores = rules["softcap"] * torch.tanh(scores / rules["softcap"])
    scores = scores.masked_fill(~seen, -torch.inf)
    if rules.get("s_aux"):
        sinks = tensors[3].view(-1, 1, 1).expand(-1, len(seen), 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1)[..., : seen.shape[1]]
    return (weights @ value.repeat_interleave(groups, 0)).transpose(0, 1)[None]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("laid", SHAPES)
def test_segments_attend_by_the_formula(name: str, laid: str) -> None:
    """Outputs and gradients, those of sinks and of keys from another pass too."""
    shape, rules = SHAPES[laid], RULES[name]
    torch.manual_seed(0)
    num_queries, num_keys = sum(shape.sizes), sum(shape.sizes) + sum(shape.before)
    sizes = [(HEADS, num_queries), (SHARED, num_keys), (SHARED, num_keys)]
    made = [torch.randn(1, heads, tokens, SIZE) for heads, tokens in sizes]
    tensors = [x.requires_grad_() for x in [*made, torch.randn(HEADS)]]
    expected = dense(tensors, shape, rules)
    keywords = {**rules, "s_aux": tensors[3] if "s_aux" in rules else None}
    got, _ = attention.attend(
        torch.nn.Identity(), *tensors[:3], None, scaling=SCALE, pass_shape=shape, **keywords
    )
    assert torch.allclose(got, expected, atol=2e-6)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), tensors, allow_unused=True)
    found = torch.autograd.grad((got * weights).sum(), tensors, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) is (other is None)
        if one is not None and other is not None:
            assert torch.allclose(one, other, atol=2e-5)
    assert (found[3] is not None) is ("s_aux" in rules)


def test_no_mask_within_the_window_and_no_square_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel calls of a segment of 2,000 tokens: (queries, keys, masked)."""
    calls: list[tuple[int, int, bool]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Any, key: Any, value: Any, **keywords: Any) -> torch.Tensor:
        calls.append((query.shape[2], key.shape[2], keywords["attn_mask"] is not None))
        return real(query, key, value, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    query = torch.zeros(1, 2, 2000, 8)

    def called(window: int) -> list[tuple[int, int, bool]]:
        calls.clear()
        segment.attended(query, query, query, Rules(window=window), segment.Masks())
        return list(calls)

    assert called(2000) == [(2000, 2000, False)]
    assert called(1900) == [(1900, 1900, False), (100, 1999, True)]
    first, *blocks = called(64)
    assert first == (64, 64, False)
    assert all(masked and keys == queries + 63 for queries, keys, masked in blocks)
    assert max(queries for queries, _, _ in blocks) == segment.LEAST_BLOCK


def test_long_blocks_are_computed_again_and_not_kept() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 600, 8, requires_grad=True) for _ in range(3)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (kept.append(x.numel()), x)[1], lambda x: x
    ):
        segment.attended(*tensors, Rules(softcap=2.0), segment.Masks())
    assert max(kept) <= 2 * 512 * segment.RECOMPUTED_KEYS


class Layer(torch.nn.Module):
    """A layer that hands on a window, and a model whose masks have another."""

    device = torch.device("cpu")


@pytest.mark.parametrize(
    ("handed_on", "masked", "message"),
    [
        (4096, 4096, None),
        (None, None, None),
        (4096, 4095, "Layer says a window of 4096 tokens"),
        (4096, None, "Layer says a window of 4096 tokens"),
        (None, 4096, "Layer says no window"),
    ],
)
def test_masks_are_asked_far_beyond_the_chats_of_the_check(
    handed_on: int | None, masked: int | None, message: str | None
) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import causal_mask_function
    from transformers.masking_utils import sliding_window_causal_mask_function as sliding

    layer: Any = Layer()
    layer.config = type("Config", (), {"_attn_implementation": "eager"})()
    layer.set_attn_implementation = lambda name: setattr(layer.config, "_attn_implementation", name)
    heads = torch.zeros(1, 2, 2, 8)

    def run(ids_BT: torch.Tensor) -> None:
        name = layer.config._attn_implementation
        mask = AttentionMaskInterface()[name](
            batch_size=1, q_length=2, kv_length=2, q_offset=0, kv_offset=0,
            mask_function=sliding(masked) if masked else causal_mask_function, use_vmap=False,
        )  # fmt: skip
        AttentionInterface()[name](layer, heads, heads, heads, mask, sliding_window=handed_on)

    if message is None:
        windows.compare(layer, run)
    else:
        with pytest.raises(ModelError, match=message):
            windows.compare(layer, run)
    assert layer.config._attn_implementation == "eager"
