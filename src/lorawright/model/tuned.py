"""A run's adapter and its base → one PEFT model, and the tokens that end its answers.

files = tuned.find(run, settings)       which adapter, which base; refuses another base
base = files.load_base()
model = files.add_adapter(base)         the base itself, its layers wrapped
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from lorawright import hardware, hub, masks
from lorawright.config.schema import Dtype, ModelSettings, Quantization
from lorawright.errors import ModelError, RunFolderError
from lorawright.hardware import Device, Hardware
from lorawright.model import load
from lorawright.run import checkpoint
from lorawright.run.folder import RunFolder


@dataclass(frozen=True, slots=True)
class TunedFiles:
    """Where both halves of a tuned model lie, and where it is computed.

    Attributes:
        settings: The base's; `dtype` is not `auto`.
        base: The base's folder.
        adapter: The adapter's folder.
        device: This machine's.
    """

    settings: ModelSettings
    base: Path
    adapter: Path
    device: Device

    def load_base(self, folder: Path | None = None, *, quantized: bool = True) -> Any:
        """The base on its device, in evaluation mode.

        Args:
            folder: Another folder of the same architecture: the merged model.
            quantized: As in training; False loads a QLoRA run's base without quantization.

        Raises:
            ModelError: It cannot be loaded.
        """
        settings = self.settings
        if not quantized:
            settings = settings.model_copy(update={"quantization": Quantization.NONE})
        folder = self.base if folder is None else folder
        return load.load_base(settings, folder, self.device, training=False).eval()

    def add_adapter(self, base: Any) -> PeftModel:
        """Wraps a base, in evaluation mode.

        Raises:
            ModelError: Base and adapter do not fit each other.
        """
        return with_adapter(base, self.adapter, self.settings.name).eval()


def find(run: RunFolder, settings: ModelSettings) -> TunedFiles:
    """The adapter of a finished run, or of its newest checkpoint, and the base it belongs to.

    Args:
        run: The run.
        settings: The `model` section of its config.

    Raises:
        RunFolderError: The run has neither an adapter nor a complete checkpoint.
        ModelError: The base is gone or another, or a file of the adapter has changed.
    """
    adapter = adapter_folder(run)
    base = hub.model_folder(settings.name, settings.revision, with_code=settings.trust_remote_code)
    refuse_other_base(run, settings.name, base)
    facts = hardware.detect()
    return TunedFiles(with_dtype(settings, facts), base, adapter, facts.device)


def adapter_folder(run: RunFolder) -> Path:
    """The finished adapter, or that of the newest complete checkpoint; their files verified.

    Raises:
        RunFolderError: The run has neither.
        ModelError: A file of the adapter has changed since it was written.
    """
    finished = run.finished_adapter()
    if finished is not None:
        return finished
    latest = checkpoint.latest(run.checkpoints)
    if latest is None:
        raise RunFolderError(
            "has no adapter and no complete checkpoint",
            where=str(run.path),
            hint="`lorawright train CONFIG --resume` goes on with it",
        )
    return latest


def refuse_other_base(run: RunFolder, name: str, folder: Path) -> None:
    """Raises ModelError where the base's weights are not those that the adapter was trained on.

    The base may have moved; it may not have changed.
    """
    trained_on = run.base_weights()
    if trained_on is not None and trained_on != hub.weights_digest(folder):
        raise ModelError(
            "holds other weights than the base that this adapter was trained on",
            where=name,
            hint=f"put back the model that {run.path} was trained with, or train anew",
        )


def with_dtype(settings: ModelSettings, facts: Hardware) -> ModelSettings:
    """Settings whose `dtype` is not `auto`; a run's config has none, an edited one may."""
    if settings.dtype is not Dtype.AUTO:
        return settings
    without = Dtype.FLOAT16 if facts.device is Device.CUDA else Dtype.FLOAT32
    dtype = Dtype.BFLOAT16 if facts.bfloat16 else without
    return settings.model_copy(update={"dtype": dtype})


def with_adapter(base: Any, adapter: Path, name: str) -> PeftModel:
    """The base, wrapped with an adapter.

    Raises:
        ModelError: They do not fit each other.
    """
    try:
        return PeftModel.from_pretrained(base, str(adapter))
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise ModelError(
            f"does not fit {name}: {str(error).splitlines()[0][:200]}",
            where=str(adapter),
            hint="the adapter belongs to another base, or files are missing; see "
            "base_model_name_or_path in its adapter_config.json",
        ) from None


def end_tokens(tokenizer: masks.ChatTokenizer, base: Any) -> list[int]:
    """Ids that end an answer: the chat template's first, then the generation config's.

    Args:
        tokenizer: The base's.
        base: The loaded base.
    """
    markers = masks.learn(tokenizer)
    listed = base.generation_config.eos_token_id
    others = listed if isinstance(listed, list) else [] if listed is None else [listed]
    return list(dict.fromkeys([markers.end_id, *others, *sorted(markers.stop_ids)]))
