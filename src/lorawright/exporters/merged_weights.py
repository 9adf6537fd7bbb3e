"""A base's and an adapter's files → tensors of the merged model, one at a time.

    base files ──► one tensor, float32 ──► PEFT's own merge of its layer ──► float32 sum
    adapter    ──► rank-sized matrices on a skeleton: a model without weights

The skeleton tells which module has which rank, scale and variant (LoRA, rsLoRA, DoRA) by PEFT's
own rules; no more than one module's weight is in memory besides what the caller keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
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

ADAPTER = "adapter_model.safetensors"
UNQUANTIZED = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class MergedWeights:
    """The merged model's tensors, made when they are asked for.

    Attributes:
        files: Base tensor → the file that holds it.
        layers: Tensor → the adapted layer whose weight it is.
        replaced: Tensors that were trained as a whole: biases.
        untied: Name of the head's tensor, where it was the embedding's and that is adapted.
        embedding: Name of the embedding's tensor.
    """

    files: dict[str, Path]
    layers: dict[str, Any]
    replaced: dict[str, torch.Tensor]
    untied: str | None
    embedding: str
    _open: dict[Path, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        added = [self.untied] if self.untied and self.untied not in self.files else []
        return [*self.files, *added]

    @property
    def num_changed(self) -> int:
        return len(self.layers) + len(self.replaced)

    def dtype(self, name: str) -> torch.dtype:
        """What the base holds this tensor in."""
        return _dtype(self._slice(name))

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
        base: torch.Tensor = self._reader(self.files[source]).get_tensor(source)
        if name in self.replaced:
            return self.replaced[name]
        if name not in self.layers:
            return base
        return _merge(self.layers[name], base, name)

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
    whole = _wrap(skeleton, adapter, base).get_base_model()
    layers = {
        f"{name}.weight": module
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
    found = MergedWeights(files, layers, replaced, untied, embedding)
    _refuse_misfits(found, base)
    return found


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
    inner = layer.get_base_layer()
    placeholder = inner.weight
    inner.weight = nn.Parameter(base.float(), requires_grad=False)
    try:
        layer.merge(safe_merge=True)
        merged: torch.Tensor = inner.weight.detach()
    except ValueError:
        raise ModelError(
            "the merged weight is not finite",
            where=name,
            hint="the adapter is broken: train anew, with a lower `training.learning_rate`",
        ) from None
    finally:
        layer.merged_adapters.clear()
        inner.weight = placeholder
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
                dtype = _dtype(file.get_slice(name))
                if dtype not in UNQUANTIZED:
                    raise ModelError(
                        f"{name} is held in {str(dtype).removeprefix('torch.')}",
                        where=str(path),
                        hint="merging needs the unquantized base: name it as `model.name`, with "
                        "`model.quantization: nf4` or `int8` for QLoRA",
                    )
                yield name, path


def _dtype(part: Any) -> torch.dtype:
    """Of a tensor in a safetensors file, without reading it: one row at most."""
    dtype: torch.dtype = part[:1].dtype
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


def _refuse_misfits(found: MergedWeights, base: Path) -> None:
    """Every change has its tensor in the base's files, of the size that the model says."""
    for name in (*found.layers, *found.replaced):
        if name not in found.files:
            raise ModelError(
                f"holds no tensor {name}, which the adapter changes",
                where=str(base),
                hint="its files name their tensors otherwise; such a model cannot be merged here",
            )
    for name, layer in found.layers.items():
        expected = tuple(layer.get_base_layer().weight.shape)
        if found.shape(name) != expected:
            raise ModelError(
                f"{name} has the shape {found.shape(name)}, its config.json says {expected}",
                where=str(base),
                hint="download the model again",
            )
