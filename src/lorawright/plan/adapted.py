"""Model without weights and `lora` settings → what PEFT adapts, and what stays as it is.

    config.json ─► modules and shapes on `meta` ─┬► names that are no layers    refuse_unknown
                                                 ├► names as PEFT takes them    targets
                                                 └► weights without an adapter  left_out

Transformers 5 holds a layer's experts as one parameter of three dimensions. That is no linear
layer: `all-linear` leaves it, `lora.target_parameters` takes it.

In some of these families PEFT 0.21 reads names as those of Transformers 4, where each expert had
linear layers: `gate_proj` means the experts' `gate_up_proj`, and a shared expert's layer of that
name cannot be said, neither when an adapter is made nor when one is loaded
(peft/utils/transformers_weight_conversion.py). Which families and names these are is asked of PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lorawright.config.schema import LoraSettings
from lorawright.errors import ModelError
from lorawright.plan import architecture

ALL_LINEAR = "all-linear"
MODULES, PARAMETERS = "lora.target_modules", "lora.target_parameters"
MOST_LISTED = 12  # names in a hint
DIMENSIONS = (2, 3)  # of a parameter that PEFT adapts (tuners/lora/layer.py, ParamWrapper)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Weights of a model's blocks that get no adapter.

    Attributes:
        names: Without the number of their layer, each once.
        share: Of all the model's weights.
    """

    names: tuple[str, ...]
    share: float


def skeleton(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The model's modules without weights; None where only its own code knows. Imports torch.

    Raises:
        ModelError: As `architecture.read_config`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = architecture.read_config(folder, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, TypeError, AttributeError, RuntimeError, ImportError, KeyError, OSError):
        return None  # loading it says what is wrong


def targets(base: Any, wanted: str | Sequence[str]) -> str | list[str]:
    """What PEFT is given as `target_modules`.

    As written; in a family whose names PEFT reads otherwise whole names of the layers that are
    meant, which it reads as they are. There a pattern would lose the layers it is limited to.

    Args:
        base: The model, also without weights.
        wanted: `lora.target_modules`.
    """
    if not _reads_otherwise(base, ALL_LINEAR):
        return wanted if isinstance(wanted, str) else list(wanted)
    meant = _meant(base, wanted)
    otherwise = _read_otherwise(base, meant)
    return [name for name in meant if _leaf(name) not in otherwise]


def refuse_unknown(base: Any, settings: LoraSettings) -> None:
    """A name that nothing in the model has is a mistake, and one that PEFT reads otherwise, too.

    PEFT drops an unknown name as long as another one is found (peft 0.21).

    Raises:
        ModelError: With the nearest name.
    """
    _refuse_unknown_modules(base, settings.target_modules)
    if settings.target_modules != ALL_LINEAR:
        _refuse_unfit_modules(base, _meant(base, settings.target_modules))
    for wanted in settings.target_parameters or []:
        _refuse_unknown_parameter(base, wanted, settings)


def left_out(base: Any, settings: LoraSettings) -> LeftOut:
    """Matrices of the blocks that neither `target_modules` nor `target_parameters` adapts."""
    covered = {f"{name}.weight" for name in _meant(base, targets(base, settings.target_modules))}
    sizes: dict[str, int] = {}
    num_all = 0
    for name, parameter in base.named_parameters():
        num_all += parameter.numel()
        given = any(_is_meant(one, name) for one in settings.target_parameters or [])
        if _is_matrix(name, parameter) and name not in covered and not given:
            short = _short(name)
            sizes[short] = sizes.get(short, 0) + parameter.numel()
    names = sorted(sizes, key=lambda short: -sizes[short])
    return LeftOut(tuple(names), sum(sizes.values()) / max(num_all, 1))


def unfit(base: Any) -> list[str]:
    """Linear layers that no adapter can be added to.

    Routers that answer with more than a tensor, and what PEFT refuses: a Mamba layer's `out_proj`,
    whose weight its kernel reads past the layer (peft/tuners/tuners_utils.py).
    """
    refused = {leaf for leaf in _leaves(base) if _is_refused(base, leaf)}
    return [
        name
        for name, module in _linear(base)
        if type(module).__name__.endswith("Router") or _leaf(name) in refused
    ]


def are_transposed(base: Any) -> bool:
    """Whether weights lie as (inputs, outputs), as in GPT-2; PEFT wants to be told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in base.modules())


def layer_names(base: Any) -> str:
    """Names of the base's linear layers, for people."""
    return listed(_leaves(base))


def listed(names: Sequence[str]) -> str:
    """Names for people, the first of them."""
    return ", ".join(names[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")


def _refuse_unknown_modules(base: Any, wanted: str | Sequence[str]) -> None:
    if wanted == ALL_LINEAR or (isinstance(wanted, str) and _meant(base, wanted)):
        return
    if isinstance(wanted, str):
        raise ModelError(
            f"no layer's name is `{wanted}` as a whole, read as a regular expression",
            where=MODULES,
            hint=f"several names are a list, `[q_proj, v_proj]`; this model has "
            f"{layer_names(base)}",
        )
    for one in wanted:
        if _meant(base, [one]):
            continue
        near = get_close_matches(one, _leaves(base), n=1, cutoff=0.5)
        guess = f"; did you mean `{near[0]}`?" if near else ""
        raise ModelError(
            f"no layer is called `{one}`{guess}",
            where=MODULES,
            hint=f"this model has {layer_names(base)}",
        )


def _refuse_unfit_modules(base: Any, meant: list[str]) -> None:
    left = set(unfit(base))
    otherwise = _read_otherwise(base, meant)
    for name in meant:
        if name in left:
            raise ModelError(
                f"PEFT has no adapter for `{_short(name)}` in this family",
                where=MODULES,
                hint="leave it out; `all-linear` does",
            )
        if _leaf(name) in otherwise:
            raise ModelError(
                f"`{_short(name)}` cannot be adapted as a layer: PEFT reads `{_leaf(name)}` in "
                "this family as the experts' weight",
                where=MODULES,
                hint=f"leave it out; `{PARAMETERS}: [{_short(name)}.weight]` adapts it",
            )


def _refuse_unknown_parameter(base: Any, wanted: str, settings: LoraSettings) -> None:
    found = {n: p for n, p in base.named_parameters() if _is_meant(wanted, n)}
    if not found:
        known = list(dict.fromkeys(_short(name) for name, _ in _matrices(base)))
        near = get_close_matches(wanted, known, n=1, cutoff=0.5)
        guess = f"; did you mean `{near[0]}`?" if near else ""
        raise ModelError(
            f"no parameter is called `{wanted}`{guess}",
            where=PARAMETERS,
            hint=f"this model has {listed(known)}",
        )
    adapted = {f"{name}.weight" for name in _meant(base, targets(base, settings.target_modules))}
    for name, parameter in found.items():
        if parameter.dim() not in DIMENSIONS:
            raise ModelError(
                f"`{_short(name)}` has {parameter.dim()} dimensions, PEFT adapts 2 or 3",
                where=PARAMETERS,
                hint="leave it out",
            )
        if _is_refused(base, _leaf(name.rpartition(".")[0])):
            raise ModelError(
                f"PEFT has no adapter for `{_short(name)}` in this family",
                where=PARAMETERS,
                hint="leave it out",
            )
        if name in adapted:
            raise ModelError(
                f"`{_short(name)}` belongs to a layer that `{MODULES}` adapts",
                where=PARAMETERS,
                hint="leave it out of one of them",
            )


def _read_otherwise(base: Any, names: Sequence[str]) -> set[str]:
    """Last parts of names that PEFT takes for something else."""
    return {leaf for leaf in {*map(_leaf, names)} if _reads_otherwise(base, [leaf])}


def _reads_otherwise(base: Any, wanted: str | list[str]) -> bool:
    """Whether PEFT makes something else of `target_modules` before it looks for them."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    made, before = (LoraConfig(target_modules=wanted) for _ in range(2))
    try:
        convert_peft_config_for_transformers(made, model=base, conversions=None)
    except ValueError:  # it needs the names of all that are fused together
        return True
    return bool(made.target_modules != before.target_modules)


def _is_refused(base: Any, leaf: str) -> bool:
    """Whether PEFT refuses modules of this name in this family."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    check = getattr(LoraModel, "_check_target_module_compatiblity", None)  # PEFT's spelling, 0.21
    if check is None:
        return False
    try:
        check(None, LoraConfig(), base, leaf)
    except ValueError:
        return True
    return False


def _meant(base: Any, wanted: str | Sequence[str]) -> list[str]:
    """Names of the modules that `target_modules` stands for, as PEFT reads them."""
    if wanted == ALL_LINEAR:
        left = set(unfit(base))
        return [name for name in _all_linear(base) if name not in left]
    names = [name for name, _ in base.named_modules() if name]
    if isinstance(wanted, str):
        return [name for name in names if re.fullmatch(wanted, name)]
    return [name for name in names if any(_is_meant(one, name) for one in wanted)]


def _is_meant(one: str, name: str) -> bool:
    return name == one or name.endswith(f".{one}")


def _all_linear(base: Any) -> Iterator[str]:
    output = base.get_output_embeddings()
    return (name for name, module in _linear(base) if module is not output)


def _linear(base: Any) -> Iterator[tuple[str, Any]]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in base.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            yield name, module


def _matrices(base: Any) -> Iterator[tuple[str, Any]]:
    """Parameters that are no linear layer's own."""
    own = {f"{name}.weight" for name, _ in _linear(base)}
    for name, parameter in base.named_parameters():
        if _is_matrix(name, parameter) and name not in own:
            yield name, parameter


def _is_matrix(name: str, parameter: Any) -> bool:
    """One of a block's that is multiplied with; the biases of experts have two dimensions, too."""
    in_block = re.search(r"\.\d+\.", name) is not None
    return in_block and parameter.dim() in DIMENSIONS and not name.endswith("bias")


def _leaves(base: Any) -> list[str]:
    """Last parts of the names of linear layers but the head's, each once."""
    return list(dict.fromkeys(_leaf(name) for name in _all_linear(base)))


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _short(name: str) -> str:
    """`model.layers.3.mlp.gate.weight` → `mlp.gate.weight`."""
    return re.sub(r"^.*?\.\d+\.", "", name)
