"""A loaded base → the scaling of its logits, or a refusal where passes change chats.

    pass       | S S S | a a | b b |      b's hidden states do not depend on a,
    alone      | S S S       | b b |      and are those of the model's own attention

Facts from configs and classes (architecture.py) lag behind new families; this does not. It costs
five short forward passes, no gradient. Chats are made up of random tokens. They are shorter than
most windows, which are asked of the model's masks (windows.py).

Shapes: T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lorawright.errors import ModelError
from lorawright.model import attention, windows
from lorawright.model.attention import FALLBACK, PassShape
from lorawright.model.causal_lm import backbone, measure_scaling, relative_error
from lorawright.model.load import evaluation_mode
from lorawright.model.logit_scaling import LogitScaling
from lorawright.plan.attention import PACKED

COMMON, BRANCH = 16, 12  # tokens of a common beginning, and of what follows it in each chat
FIRST = 5  # tokens of a chat that a leak from the chat before it reaches first


@dataclass(frozen=True, slots=True)
class Limits:
    """Highest relative error of hidden states, median over rows.

    A leak moves states by their own size. Exact families differ by 0 and 1e-6 in float32, by 1e-2
    in bfloat16, and where another neighbour means another batch for an expert.

    Attributes:
        leak: When the other chat of the pass is exchanged.
        packing: Between a chat in a pass and alone.
    """

    leak: float
    packing: float


EXACT = Limits(leak=1e-3, packing=1e-3)
ROUGH = Limits(leak=0.1, packing=0.2)  # in 16 bits, and quantized


@torch.no_grad()
def verify(base: Any, *, together: bool) -> LogitScaling | None:
    """Compares passes of a base with the same chats alone, and its logits with its head's product.

    Args:
        base: On its device, whole, with the attention it will train with.
        together: Whether passes hold several chats.

    Returns:
        What the model does to its logits behind the head; None: only its own forward can tell.

    Raises:
        ModelError: Chats of a pass are not what they are alone.
    """
    evaluation_mode(base)
    first, other, second = _chats(base)
    try:
        with _own_attention(base):
            scaling = measure_scaling(base)
        if together:
            if base.config._attn_implementation in PACKED:
                windows.compare(base, lambda ids_BT: backbone(base)(ids_BT, use_cache=False))
            _compare(base, first, other, second)
    except torch.OutOfMemoryError:
        raise
    except (
        TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError, AssertionError,
    ) as error:  # fmt: skip
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{type(base).__name__} cannot compute a pass: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0][:200] if str(error).strip() else error!r}",
            where="model.name",
            hint=FALLBACK if together else "this family cannot be trained here yet; open an issue",
        ) from error
    return scaling


def _chats(base: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three chats behind one beginning, the same for every run."""
    size = int(base.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size // 10, size * 9 // 10, (COMMON + 3 * BRANCH,), generator=generator)
    common, *branches = torch.split(ids, [COMMON, BRANCH, BRANCH, BRANCH])
    first, other, second = (torch.cat([common, branch]) for branch in branches)
    return first, other, second


def _compare(base: Any, first: torch.Tensor, other: torch.Tensor, second: torch.Tensor) -> None:
    found_TH = _states(base, first, second)
    leak = relative_error(_states(base, other, second)[:FIRST], found_TH[:FIRST])
    if not leak <= _limits(base).leak:  # also where it is not a number
        raise ModelError(
            f"a chat of {type(base).__name__} sees the chat before it in a pass: its states move "
            f"by {leak:.1%} when that one changes",
            where="model.name",
            hint=FALLBACK,
        )
    with _own_attention(base):
        alone_TH = backbone(base)(second[None].to(base.device), use_cache=False)[0][0]
    error = relative_error(found_TH, alone_TH[-len(found_TH) :])
    if not error <= _limits(base).packing:
        raise ModelError(
            f"a chat of {type(base).__name__} is not in a pass what it is alone: its states "
            f"differ by {error:.1%}",
            where="model.name",
            hint=FALLBACK,
        )


def _states(base: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """States (T, H) of a chat, or of what is its own, in a pass behind another."""
    implementation = base.config._attn_implementation
    shared = COMMON if implementation in PACKED else 0
    shape = PassShape((shared, BRANCH, BRANCH), ((0,), (0, 1), (0, 2)))
    ids = torch.cat([first, second[shared:]])
    positions = torch.cat([torch.arange(len(first)), torch.arange(shared, len(second))])
    output = backbone(base)(
        ids[None].to(base.device),
        position_ids=positions[None].to(base.device),
        use_cache=False,
        **attention.pass_inputs(shape, implementation),
    )
    states_TH: torch.Tensor = output.last_hidden_state[0, len(first) :]
    return states_TH


def _own_attention(base: Any) -> AbstractContextManager[None]:
    """The model's own attention in place of ours."""
    ours = base.config._attn_implementation in PACKED
    return windows.switched(base, "eager") if ours else nullcontext()


def _limits(base: Any) -> Limits:
    quantized = getattr(base, "is_quantized", False)
    return EXACT if base.dtype is torch.float32 and not quantized else ROUGH
