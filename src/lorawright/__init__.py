"""LoRA fine-tuning of chat models that you can check.

    config = lorawright.load_config("config.yaml")
    result = lorawright.train(config)
    figures = lorawright.evaluate(result)
    merged = lorawright.merge(result)

`help(lorawright.train)` gives arguments, units and errors. Importing is light: torch is loaded only
by what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorawright.errors import LorawrightError

if TYPE_CHECKING:
    from lorawright.api import chat, check, evaluate, export, load_config, merge, train

    __version__: str

__all__ = [
    "LorawrightError",
    "__version__",
    "chat",
    "check",
    "evaluate",
    "export",
    "load_config",
    "merge",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lorawright")
    if name in __all__:
        return getattr(import_module("lorawright.api"), name)
    raise AttributeError(f"module 'lorawright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
