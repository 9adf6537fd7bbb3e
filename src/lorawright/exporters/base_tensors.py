"""Tensors of a base's files ↔ parameters of its model, by Transformers' own conversions.

    files    experts.0.gate_proj.weight, experts.0.up_proj.weight, experts.1.gate_proj.weight, …
      │ ▲
      ▼ │    transformers.conversion_mapping: stacked, joined, renamed; and the way back
    model    experts.gate_up_proj                                        (experts, 2 F, H)

Transformers 5 renames and joins what it reads (core_model_loading.py), so a file may hold a
parameter under another name or in parts. A merged model is written as its base's files are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    apply_converters,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
)


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of the files that are made into parameters together.

    Attributes:
        tensors: Name in the files → the name and the pattern that the conversion knows it by.
        parameter: The parameter they become; where they become several, the first.
        conversion: None: the one tensor is the parameter.
    """

    tensors: dict[str, tuple[str, str]]
    parameter: str
    conversion: Any

    def to_model(self, read: Callable[[str], torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
        """Parameters, by their names in the model.

        Args:
            read: A tensor of the files.
            model: The model, also without weights: conversions ask for its config.
        """
        if self.conversion is None:
            return {self.parameter: read(next(iter(self.tensors)))}
        conversion = deepcopy(self.conversion)
        for name, (_, pattern) in self.tensors.items():
            conversion.add_tensor(self.parameter, name, pattern, read(name))
        return _converted(conversion, self.parameter, model)

    def to_files(self, parameters: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
        """The way back: tensors by their names in the files.

        Raises:
            KeyError, ValueError, NotImplementedError: There is none.
        """
        if self.conversion is None:
            return {next(iter(self.tensors)): parameters[self.parameter]}
        back = self.conversion.reverse_transform()
        first = None
        for name, tensor in parameters.items():
            renamed, pattern = apply_converters(name, [back])
            first = first or renamed
            back.add_tensor(first, name, pattern, tensor)
        made = _converted(back, first, model)
        known = {inner: name for name, (inner, _) in self.tensors.items()}
        return {known[_inner(name, known)]: tensor for name, tensor in made.items()}


def groups(model: Any, names: Iterable[str]) -> list[Group]:
    """Which tensors of the files become which parameters; what the model does not have is left out.

    Args:
        model: Without weights and without an adapter.
        names: Of the tensors in the base's files.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, Group] = {}
    for name in sorted(names, key=dot_natural_key):
        # as transformers.core_model_loading.convert_and_load_state_dict_in_model does it
        parameter, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if parameter not in known and name in known:
            parameter, pattern = rename_source_key(name, [], [], prefix, known)
        if parameter not in known:
            continue
        conversion = None if pattern is None else by_pattern[pattern]
        group = found.setdefault(parameter, Group({}, parameter, conversion))
        group.tensors[name] = (apply_renamings(name, renamings), pattern or name)
    return list(found.values())


def _converted(conversion: Any, parameter: Any, model: Any) -> dict[str, torch.Tensor]:
    made = conversion.convert(parameter, model=model, config=model.config)
    return {
        name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()
    }


def _inner(name: str, known: dict[str, str]) -> str:
    """A name on the way back as it was on the way here: the model's prefix may be the loader's."""
    if name in known:
        return name
    return next(
        inner for inner in known if name.endswith(f".{inner}") or inner.endswith(f".{name}")
    )
