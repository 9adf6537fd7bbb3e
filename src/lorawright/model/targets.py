"""The layers of a base that adapters go to: every name that is written must be one's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lorawright.errors import ModelError

ALL_LINEAR = "all-linear"
MOST_LISTED = 12  # names in a hint


def refuse_unknown(base: nn.Module, wanted: str | Sequence[str]) -> None:
    """A name or pattern of `lora.target_modules` that no layer has is a mistake.

    PEFT drops such a name as long as another one is found (peft 0.21).

    Raises:
        ModelError: With the nearest name.
    """
    if isinstance(wanted, str):
        if wanted != ALL_LINEAR and not any(re.fullmatch(wanted, name) for name in _names(base)):
            raise ModelError(
                f"no layer's name is `{wanted}` as a whole, read as a regular expression",
                where="lora.target_modules",
                hint=f"several names are a list, `[q_proj, v_proj]`; this model has {listed(base)}",
            )
        return
    names = list(_names(base))
    for one in wanted:
        if any(name == one or name.endswith(f".{one}") for name in names):
            continue
        near = get_close_matches(one, _last_parts(base), n=1, cutoff=0.5)
        guess = f"; did you mean `{near[0]}`?" if near else ""
        raise ModelError(
            f"no layer is called `{one}`{guess}",
            where="lora.target_modules",
            hint=f"this model has {listed(base)}",
        )


def routers(base: nn.Module) -> list[str]:
    """Linear layers that answer with more than a tensor, which no adapter can be added to."""
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and type(module).__name__.endswith("Router")
    ]


def are_transposed(base: nn.Module) -> bool:
    """Whether weights lie as (inputs, outputs), as in GPT-2; PEFT wants to be told."""
    return any(isinstance(module, Conv1D) for module in base.modules())


def listed(base: nn.Module) -> str:
    """Names of the base's linear layers, for people."""
    names = _last_parts(base)
    return ", ".join(names[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")


def _names(base: nn.Module) -> Iterator[str]:
    return (name for name, _ in base.named_modules() if name)


def _last_parts(base: Any) -> list[str]:
    """`q_proj`, `k_proj`… of the linear layers but the head."""
    output = base.get_output_embeddings()
    found = (
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output
    )
    return list(dict.fromkeys(found))
