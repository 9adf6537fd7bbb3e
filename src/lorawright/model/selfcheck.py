"""A loaded base → the scaling of its logits, or a refusal where passes change chats.

    pass       | S S S | a a | b b |      b's hidden states do not depend on a,
    alone      | S S S       | b b |      and are those of the model's own attention

Facts from configs and classes (architecture.py) lag behind new families; this does not. It costs
five short forward passes, no gradient. Chats are made up of random tokens. They are shorter than
most windows, which are asked of the model's masks (windows.py).

Shapes: T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

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


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """What was measured of a loaded base; in the certificate.

    Attributes:
        scaling: What it does to its logits behind the head; None: only its own forward can tell.
        leak: Error of a chat's states when the chat before it in the pass is exchanged.
        packing: Error between a chat in a pass, its beginning shared, and alone.
        seconds: That the check took.
    """

    scaling: LogitScaling | None
    leak: float | None = None
    packing: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As plain data; null where passes hold one chat, or logits are the model's own."""
        scaling = None if self.scaling is None else asdict(self.scaling)
        return {
            "leak": self.leak,
            "packing": self.packing,
            "logits": scaling,
            "seconds": round(self.seconds, 3),
        }


EXACT = Limits(leak=1e-3, packing=1e-3)
ROUGH = Limits(leak=0.1, packing=0.2)  # in 16 bits, and quantized


@torch.no_grad()
def verify(base: Any, *, together: bool) -> ModelCheck:
    """Compares passes of a base with the same chats alone, and its logits with its head's product.

    Args:
        base: On its device, whole, with the attention it will train with.
        together: Whether passes hold several chats.

    Raises:
        ModelError: Chats of a pass are not what they are alone.
    """
    evaluation_mode(base)
    started = time.perf_counter()
    first, other, second = _chats(base)
    leak = packing = None
    try:
        with _own_attention(base):
            scaling = measure_scaling(base)
        if together:
            if base.config._attn_implementation in PACKED:
                windows.compare(base, lambda ids_BT: backbone(base)(ids_BT, use_cache=False))
            leak, packing = _compare(base, first, other, second)
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
    return ModelCheck(scaling, leak, packing, time.perf_counter() - started)


@torch.no_grad()
def unreached(model: Any) -> list[str]:
    """Adapted modules that a forward pass does not call: they would learn nothing.

    Args:
        model: A PEFT model, whole, on its device, with attention that asks for no pass.
    """
    layers = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
    called: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in layers.items()
    ]
    was_training = model.training
    base = model.get_base_model()
    first, _, _ = _chats(base)
    evaluation_mode(model)
    try:
        with _own_attention(base):
            backbone(base)(first[None].to(base.device), use_cache=False)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return [name for name in layers if name not in called]


def _chats(base: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three chats behind one beginning, the same for every run."""
    size = int(base.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size // 10, size * 9 // 10, (COMMON + 3 * BRANCH,), generator=generator)
    common, *branches = torch.split(ids, [COMMON, BRANCH, BRANCH, BRANCH])
    first, other, second = (torch.cat([common, branch]) for branch in branches)
    return first, other, second


def _compare(
    base: Any, first: torch.Tensor, other: torch.Tensor, second: torch.Tensor
) -> tuple[float, float]:
    """The errors; raises ModelError where one is beyond its limit."""
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
    return leak, error


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
