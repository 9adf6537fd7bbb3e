"""A base's and an adapter's files → tensors of the merged model, one at a time.

    base files ──► one parameter, float32 ──► PEFT's own merge of its layer ──► float32 sum
    adapter    ──► rank-sized matrices on a skeleton: a model without weights

The skeleton tells which module has which rank, scale and variant (LoRA, rsLoRA, DoRA) by PEFT's
own rules. In memory besides what the caller keeps is one parameter, of a mixture two: the experts
of a layer, whose parts stand mixed in the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lorawright.errors import ModelError
from lorawright.exporters import base_tensors
from lorawright.exporters.base_tensors import Group

ADAPTER = "adapter_model.safetensors"
MOST_KEPT = 2  # groups whose tensors are kept: a layer's experts are two parameters
UNQUANTIZED = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class MergedWeights:
    """The merged model's tensors, made when they are asked for.

    Attributes:
        files: Base tensor → the file that holds it.
        layers: Parameter of the model → the adapted layer that it belongs to.
        replaced: Parameters that were trained as a whole: biases.
        untied: Name of the head's tensor, where it was the embedding's and that is adapted.
        embedding: Name of the embedding's tensor.
        changed: Base tensor → the group of those that a change is made to together.
        model: The model without weights.
    """

    files: dict[str, Path]
    layers: dict[str, Any]
    replaced: dict[str, torch.Tensor]
    untied: str | None
    embedding: str
    changed: dict[str, Group]
    model: Any
    _open: dict[Path, Any] = field(default_factory=dict)
    _parts: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        added = [self.untied] if self.untied and self.untied not in self.files else []
        return [*self.files, *added]

    @property
    def num_changed(self) -> int:
        return len(self.changed)

    def dtype(self, name: str) -> torch.dtype:
        """What the base holds this tensor in."""
        source = self._source(name)
        return _dtype(self._reader(self.files[source]), source)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def num_bytes(self, name: str) -> int:
        return int(torch.Size(self.shape(name)).numel()) * self.dtype(name).itemsize

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor of the merged model: a float32 sum where it changed, else the base's own.

        Raises:
            ModelError: The sum is not finite.
        """
        source = self._source(name)
        if name in self.changed:
            return self._part(self.changed[name], name)
        base: torch.Tensor = self._reader(self.files[source]).get_tensor(source)
        return base

    def _part(self, group: Group, name: str) -> torch.Tensor:
        """One of a group's tensors; those that are not asked for yet are kept."""
        if name not in self._parts.get(group.parameter, {}):
            while len(self._parts) >= MOST_KEPT:
                del self._parts[next(iter(self._parts))]
            self._parts[group.parameter] = self._merged(group)
        parts = self._parts[group.parameter]
        found = parts.pop(name)
        if not parts:
            del self._parts[group.parameter]
        return found

    def _merged(self, group: Group) -> dict[str, torch.Tensor]:
        def read(name: str) -> torch.Tensor:
            tensor: torch.Tensor = self._reader(self.files[name]).get_tensor(name)
            return tensor.float()

        parameters = group.to_model(read, self.model)
        for name in parameters:
            if name in self.replaced:
                parameters[name] = self.replaced[name]
            elif name in self.layers:
                parameters[name] = _merge(self.layers[name], parameters[name], name)
        return group.to_files(parameters, self.model)

    def _source(self, name: str) -> str:
        return self.embedding if name == self.untied else name

    def _slice(self, name: str) -> Any:
        return self._reader(self.files[self._source(name)]).get_slice(self._source(name))

    def _reader(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return self._open[path]


def plan(base: Path, adapter: Path, *, trust_remote_code: bool = False) -> MergedWeights:
    """What becomes of each tensor; nothing is added yet.

    Args:
        base: The unquantized base's folder.
        adapter: A PEFT adapter's folder.
        trust_remote_code: The model comes with Python code.

    Raises:
        ModelError: They do not fit, the base is quantized, or a value is not finite.
    """
    _refuse_adapter(adapter)
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    files = dict(_base_tensors(base))
    skeleton, placeholder = _skeleton(config, trust_remote_code)
    groups = base_tensors.groups(skeleton, files)
    sizes = {name: tensor.shape for name, tensor in skeleton.state_dict().items()}
    whole = _wrap(skeleton, adapter, base).get_base_model()
    layers = {
        _parameter(name, module): module
        for name, module in whole.named_modules()
        if isinstance(module, LoraLayer)
    }
    replaced = {
        name: parameter.detach()
        for path, parameter in whole.named_parameters()
        if parameter.data_ptr() != placeholder.data_ptr()
        and not _belongs_to_adapter(path)
        and (name := path.replace(".base_layer", "")) not in layers
    }
    embedding = _name_of(whole, whole.get_input_embeddings())
    tied = config.get_text_config().tie_word_embeddings and embedding in layers
    untied = _name_of(whole, whole.get_output_embeddings()) if tied else None
    sources = {group.parameter: next(iter(group.tensors)) for group in groups}
    source = sources.get(embedding, embedding)
    found = MergedWeights(files, layers, replaced, untied, source, {}, skeleton)
    found.changed.update(_changed(found, groups, sizes, base))
    return found


def _parameter(name: str, layer: Any) -> str:
    """The parameter that a layer adapts; several of one module are wrapped one around another."""
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    return f"{name}.{getattr(layer, 'parameter_name', 'weight')}"


def _skeleton(config: Any, trust_remote_code: bool) -> tuple[Any, torch.Tensor]:
    """The model's modules; every weight is one shared zero, stretched to its shape.

    On the CPU, not on `meta`: PEFT moves an adapter to where its layer is.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    placeholder = torch.zeros(1)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            stretched = placeholder.expand(parameter.shape)
            setattr(module, name, nn.Parameter(stretched, requires_grad=False))
    return model, placeholder


def _merge(layer: Any, base: torch.Tensor, name: str) -> torch.Tensor:
    """PEFT's merge of one layer, in float32; the layer is without weights again afterwards."""
    inner, own = layer.get_base_layer(), getattr(layer, "parameter_name", "weight")
    placeholder = getattr(inner, own)
    setattr(inner, own, nn.Parameter(base, requires_grad=False))
    try:
        layer.merge(safe_merge=True)
        merged: torch.Tensor = getattr(inner, own).detach()
    except ValueError:
        raise ModelError(
            "the merged weight is not finite",
            where=name,
            hint="the adapter is broken: train anew, with a lower `training.learning_rate`",
        ) from None
    finally:
        layer.merged_adapters.clear()
        setattr(inner, own, placeholder)
    return merged


def _refuse_adapter(adapter: Path) -> None:
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"is no adapter's config: {str(error)[:160]}",
            where=str(adapter / "adapter_config.json"),
            hint="the file is damaged: put it back from a copy, or train again",
        ) from None
    extras = [
        name
        for name in ("modules_to_save", "trainable_token_indices")
        if config.to_dict().get(name)
    ]
    if config.peft_type != "LORA" or extras:
        found = ", ".join(extras) or str(config.peft_type)
        raise ModelError(
            f"is not a plain LoRA adapter: {found}",
            where=str(adapter),
            hint="only what lorawright trains can be merged",
        )
    path = adapter / ADAPTER
    if not path.is_file():
        raise ModelError(
            f"has no {ADAPTER}", where=str(adapter), hint="train again, or put the file back"
        )
    try:
        _refuse_infinite(path)
    except SafetensorError as error:
        raise ModelError(
            f"cannot be read: {error}",
            where=str(path),
            hint="the file is damaged: put it back from a copy, or train again",
        ) from None


def _refuse_infinite(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 # safe_open is no mapping
            if not bool(torch.isfinite(file.get_tensor(name)).all()):
                raise ModelError(
                    f"{name} holds values that are not finite",
                    where=str(path),
                    hint="the adapter is broken: train anew, with a lower `training.learning_rate`",
                )


def _base_tensors(base: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 # safe_open is no mapping
                dtype = _dtype(file, name)
                if dtype not in UNQUANTIZED:
                    raise ModelError(
                        f"{name} is held in {str(dtype).removeprefix('torch.')}",
                        where=str(path),
                        hint="merging needs the unquantized base: name it as `model.name`, with "
                        "`model.quantization: nf4` or `int8` for QLoRA",
                    )
                yield name, path


def _dtype(file: Any, name: str) -> torch.dtype:
    """Of a tensor in a safetensors file, without reading it: one row at most."""
    part = file.get_slice(name)
    found = part[:1] if part.get_shape() else file.get_tensor(name)  # a number has no rows
    dtype: torch.dtype = found.dtype
    return dtype


def _wrap(skeleton: Any, adapter: Path, base: Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(
            skeleton, str(adapter), low_cpu_mem_usage=True, torch_device="cpu"
        )
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"does not fit {base}: {str(error).splitlines()[0][:200]}",
            where=str(adapter),
            hint="it belongs to another base; see base_model_name_or_path in its "
            "adapter_config.json",
        ) from None


def _belongs_to_adapter(name: str) -> bool:
    return any(part.startswith("lora_") for part in name.split("."))


def _name_of(whole: Any, module: Any) -> str:
    found = next(name for name, other in whole.named_modules() if other is module)
    return f"{found.removesuffix('.base_layer')}.weight"


def _changed(
    found: MergedWeights, groups: list[Group], sizes: dict[str, torch.Size], base: Path
) -> dict[str, Group]:
    """Base tensor → its group, where a change is made; tried on shapes, there and back.

    Args:
        found: Everything but this.
        groups: All of the base.
        sizes: Of the model's parameters, by config.json.
        base: Its folder.

    Raises:
        ModelError: A change has no tensor in the base's files, or one of another size.
    """

    def read(name: str) -> torch.Tensor:
        return torch.empty(found.shape(name), device="meta")

    missing = {*found.layers, *found.replaced}
    changed: dict[str, Group] = {}
    for group in groups:
        with _conversion_of(group.parameter, base):
            made = group.to_model(read, found.model)
        if missing.isdisjoint(made):
            continue
        _refuse_other_sizes(made, sizes, base)
        with _conversion_of(group.parameter, base):
            back = group.to_files(made, found.model)
        if {n: t.shape for n, t in back.items()} != {n: read(n).shape for n in group.tensors}:
            raise _other_names(group.parameter, base)
        changed.update(dict.fromkeys(group.tensors, group))
        missing -= made.keys()
    if missing:
        raise _other_names(min(missing), base)
    return changed


@contextmanager
def _conversion_of(parameter: str, base: Path) -> Iterator[None]:
    """What Transformers' conversions say of parts that are missing, too many, or of no way back."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError, NotImplementedError, StopIteration) as error:
        raise _other_names(parameter, base) from error


def _refuse_other_sizes(
    made: dict[str, torch.Tensor], sizes: dict[str, torch.Size], base: Path
) -> None:
    for name, tensor in made.items():
        if tensor.shape != sizes[name]:
            raise ModelError(
                f"{name} has the shape {tuple(tensor.shape)}, its config.json says "
                f"{tuple(sizes[name])}",
                where=str(base),
                hint="download the model again",
            )


def _other_names(parameter: str, base: Path) -> ModelError:
    return ModelError(
        f"holds no tensor {parameter}, which the adapter changes",
        where=str(base),
        hint="its files name their tensors otherwise; such a model cannot be merged here",
    )
