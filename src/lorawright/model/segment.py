"""A segment's queries and the keys it sees → its output, by the rules of its layer.

    nothing but causal, or all within the window    one call, no mask
    a window                  k . . . . .           the first queries as above, the others in
                              k k . . . .           blocks, each with the keys of its windows:
                              . k k . . .           work and memory grow with the window, not
                              . . k k . .           with the square of the segment
    capped scores, sinks                            scores written out, block by block

Shapes: B batch (1), N query heads, M key heads, L queries, K keys, D head size. The last query
stands at the last key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from lorawright.plan.architecture import Rule
from lorawright.plan.attention import KERNEL_CAPABILITY

FLOAT32_TOKENS = 400
"""Most of a segment that attends in float32 on a CPU: PyTorch's bfloat16 kernel needs 5.1 ms for
200 tokens of Qwen2.5-0.5B, forward and backward, its float32 kernel 3.6 ms (docs/log.md)."""

LEAST_BLOCK, MOST_BLOCK = 128, 512
"""Queries of a block: as many as its window, within these. Fewer are many small calls, more are
mostly keys that a window hides."""

RECOMPUTED_KEYS = 512
"""Keys from which on a block's scores are computed again in the backward pass, not kept."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a layer's attention does beyond causal.

    Attributes:
        window: Most keys that a query sees, its own among them.
        softcap: Scores s become `softcap * tanh(s / softcap)`.
        sinks: (N,): a score for each head that takes part in the softmax and has no value.
        dropout: Of probabilities.
        scale: Of scores, before the cap; None: one over the root of D.
    """

    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None
    dropout: float = 0.0
    scale: float | None = None

    @property
    def kinds(self) -> set[Rule]:
        """Those that are on, without their values."""
        values = {Rule.WINDOW: self.window, Rule.CAP: self.softcap, Rule.SINKS: self.sinks}
        return {kind for kind, value in values.items() if value is not None}

    @property
    def written_out(self) -> bool:
        """Whether PyTorch's attention has no argument for one of them."""
        return bool(self.kinds - {Rule.WINDOW})


class Masks:
    """True where a query sees a key; made once a pass."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, int | None], torch.Tensor] = {}

    def of(
        self, num_queries: int, num_keys: int, window: int | None, device: torch.device
    ) -> torch.Tensor:
        """The mask (L, K) of queries that stand at the last of the keys."""
        key = (num_queries, num_keys, window)
        if key not in self._made:
            own = num_keys - num_queries  # the first query's key
            seen = torch.ones((num_queries, num_keys), dtype=torch.bool, device=device).tril(own)
            self._made[key] = seen if window is None else seen.triu(own - window + 1)
        return self._made[key]


def attended(
    query_BNLD: torch.Tensor,
    key_BMKD: torch.Tensor,
    value_BMKD: torch.Tensor,
    rules: Rules,
    masks: Masks,
) -> torch.Tensor:
    """The output (B, N, L, D) of a segment."""
    num_queries, num_keys = query_BNLD.shape[2], key_BMKD.shape[2]
    of = _by_scores if rules.written_out else _by_kernel
    outputs = []
    with torch.autocast(query_BNLD.device.type, enabled=False):  # kernels choose their numbers
        for start, end, first in _blocks(num_queries, num_keys, rules):
            query = _between(query_BNLD, start, end)
            end_key = num_keys - num_queries + end
            key, value = (_between(x, first, end_key) for x in (key_BMKD, value_BMKD))
            outputs.append(of(query, key, value, rules, masks))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _between(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """A part; the whole as it is, for the gradient of a slice is a new tensor of zeros."""
    return x if (start, end) == (0, x.shape[2]) else x[:, :, start:end]


def _blocks(num_queries: int, num_keys: int, rules: Rules) -> Iterator[tuple[int, int, int]]:
    """(first query, end, first key that one of them sees) of the calls that a segment takes."""
    lead, window = num_keys - num_queries, rules.window or num_keys
    start = 0 if rules.written_out else min(max(window - lead, 0), num_queries)
    if start:
        yield 0, start, 0
    size = min(max(window, LEAST_BLOCK), MOST_BLOCK)
    for begin in range(start, num_queries, size):
        yield begin, min(begin + size, num_queries), max(lead + begin - window + 1, 0)


def _by_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rules: Rules, masks: Masks
) -> torch.Tensor:
    """PyTorch's attention, without a mask where a causal square will do."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    lead = num_keys - num_queries
    whole = rules.window is None or num_keys <= rules.window
    if whole and lead <= num_queries:
        # queries that nobody asks for: the causal square is less work than a mask's rectangle
        padded = F.pad(query, (0, 0, lead, 0)) if lead else query
        return _product(padded, key, value, None, rules)[:, :, lead:]
    window = None if whole else rules.window
    mask = masks.of(num_queries, num_keys, window, query.device)
    return _product(query, key, value, mask, rules)


def _product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    rules: Rules,
) -> torch.Tensor:
    """PyTorch's attention; causal without a mask."""
    dtype, numbers = query.dtype, _numbers(query)
    query, key, value = (x.to(numbers) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    if grouped and not _takes_groups(query, mask):
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
        grouped = False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=rules.dropout,
        is_causal=mask is None,
        scale=rules.scale,
        enable_gqa=grouped,
    ).to(dtype)


def _numbers(query: torch.Tensor) -> torch.dtype:
    """The dtype to attend in."""
    short = query.device.type == "cpu" and query.shape[2] <= FLOAT32_TOKENS
    return torch.float32 if short else query.dtype


def _takes_groups(query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether PyTorch has a kernel for keys that several query heads share.

    On CUDA only FlashAttention has (fp16 and bf16, sm80 and later, no masks); for others PyTorch
    falls to `math`, which keeps all scores. The memory-efficient kernel takes the keys repeated.
    """
    if query.device.type != "cuda":
        return True
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and mask is None and _capability(query.device) >= KERNEL_CAPABILITY


@cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def _by_scores(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rules: Rules, masks: Masks
) -> torch.Tensor:
    """What PyTorch's attention has no argument for; long blocks are computed again backward."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    window = None if rules.window is None or num_keys <= rules.window else rules.window
    mask = masks.of(num_queries, num_keys, window, query.device)
    dtype, numbers = query.dtype, _numbers(query)
    query, key, value = (x.to(numbers) for x in (query, key, value))
    if num_keys <= RECOMPUTED_KEYS or not torch.is_grad_enabled():
        return _written_out(query, key, value, mask, rules).to(dtype)
    output: torch.Tensor = checkpoint(
        _written_out, query, key, value, mask, rules,
        use_reentrant=False, preserve_rng_state=rules.dropout > 0,
    )  # fmt: skip
    return output.to(dtype)


def _written_out(
    query_BNLD: torch.Tensor,
    key_BMKD: torch.Tensor,
    value_BMKD: torch.Tensor,
    mask_LK: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """Softmax and scores as formulas, in float32; keys that heads share are not repeated."""
    batch, heads, queries, size = query_BNLD.shape
    shared = key_BMKD.shape[1]
    scale = size**-0.5 if rules.scale is None else rules.scale
    rows = query_BNLD.reshape(
        batch, shared, -1, size
    )  # a key head's query heads, one below another
    scores = (rows @ key_BMKD.transpose(2, 3)).float().view(batch, heads, queries, -1)
    if rules.softcap is None:
        scores = scores * scale
    else:
        scores = torch.tanh(scores * (scale / rules.softcap)) * rules.softcap
    # added, not filled in: an addition needs no work backward
    hidden_LK = torch.zeros(mask_LK.shape, device=scores.device).masked_fill(~mask_LK, -torch.inf)
    scores = scores + hidden_LK
    if rules.sinks is None:
        probabilities = scores.softmax(dim=-1)
    else:
        sinks = rules.sinks.float().view(1, -1, 1, 1).expand(batch, heads, queries, 1)
        probabilities = torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]
    if rules.dropout:
        probabilities = F.dropout(probabilities, rules.dropout)
    mixed = probabilities.to(value_BMKD.dtype).reshape(batch, shared, -1, scores.shape[-1])
    return (mixed @ value_BMKD).view(batch, heads, queries, -1)
