"""A model's name → the local folder that holds it.

A name is `tiny` (inside the package), a folder, or a hub id. Hub ids are downloaded file by file
by what is needed: the tokenizer for `check`, weights (safetensors only) for `train`. No torch.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from lorawright.errors import ModelError
from lorawright.types import DATA_EXTENSIONS

TINY = "tiny"
HUB = "hf://"  # before a name that must not be looked for as a folder
MODEL_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")  # old models have no owner
SET_ID = re.compile(
    r"(?:hf://)?(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>.+))?"
)
TOKENIZER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/*",
)
MODEL_FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt")


def may_be_model(name: str) -> bool:
    """Whether a name can be a model's hub id; a folder of that name goes before."""
    return MODEL_ID.fullmatch(name) is not None and not name.startswith(".")


def match_set(name: str) -> re.Match[str] | None:
    """The parts of a data set's hub id, where a name can be one; a folder `org` goes before.

    `hf://org/name/config:split` can be nothing else; bare, it has no config, and is no file's name.
    """
    found = SET_ID.fullmatch(name)
    if found is None or name.startswith(HUB):
        return found
    is_path = name.startswith(".") or name.lower().endswith(DATA_EXTENSIONS) or found["config"]
    return None if is_path else found


def model_id(name: str) -> str | None:
    """A model's name if it is a hub id; local folders mean nothing to others."""
    if name.startswith(HUB):
        return name.removeprefix(HUB)
    is_one = name != TINY and "/" in name and may_be_model(name) and not Path(name).exists()
    return name if is_one else None


def tokenizer_folder(name: str, revision: str | None = None) -> Path:
    """The folder with at least the model's tokenizer and config."""
    return _locate(name, revision, TOKENIZER_FILES)


def model_folder(name: str, revision: str | None = None, *, with_code: bool = False) -> Path:
    """The folder with the whole model; `with_code` fetches its Python files too."""
    folder = _locate(name, revision, (*MODEL_FILES, "*.py") if with_code else MODEL_FILES)
    if any(folder.glob("*model*.bin")) and not any(folder.glob("*.safetensors")):
        raise ModelError(
            "holds its weights as *.bin, which are pickles; safetensors are needed",
            where=name,
            hint="convert them once, in Python: `AutoModelForCausalLM.from_pretrained(FOLDER, "
            'dtype="auto").save_pretrained(FOLDER)`; or download them as safetensors',
        )
    return folder


def weights_digest(folder: Path) -> str:
    """Tells models of one shape apart without reading all of them.

    Of each weight file its name, its size, and 64 stretches of 16 KB spread over it: a fine-tuned
    sibling differs in every layer, and this takes milliseconds where a whole hash takes minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for number in range(64):
                file.seek(size * number // 64)
                digest.update(file.read(16 * 1024))
    return digest.hexdigest()


def _locate(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    if name == TINY:
        return Path(str(files("lorawright") / "assets" / "tiny"))
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB), revision, patterns)
    folder = Path(name).expanduser()
    try:
        if folder.exists():
            return _checked(folder, name)
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}",
            where=name,
            hint="see to the permissions of the folder and of those around it",
        ) from None
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            "no such model folder", where=name, hint="expected a folder, a hub id, or `tiny`"
        )
    return _download(name, revision, patterns)


def _checked(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise ModelError("is a file, expected a model folder", where=name, hint="name its folder")
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "is a LoRA adapter, expected a base model",
            where=name,
            hint="name the model the adapter was trained on; `lorawright chat RUN` talks to a run",
        )
    raise ModelError(
        "is a folder without config.json, expected a model in Hugging Face layout",
        where=name,
        hint="a model folder holds config.json, tokenizer.json and *.safetensors",
    )


def _download(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except ValueError:
        raise ModelError(
            "no such folder, and not a hub id", where=name, hint="expected a folder, or OWNER/NAME"
        ) from None
    except OSError as error:
        raise ModelError(
            f"no such folder, and the hub did not give it: {_first_line(error)}",
            where=name,
            hint="check the name; behind a firewall set HF_ENDPOINT to a mirror, or download the "
            "model by other means (ModelScope, git) and write its folder as `model.name`",
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].strip()
