"""LoRA fine-tuning of chat models that you can check.

`import lorawright` stays light: torch is loaded only by the stages that need it.
"""

from lorawright.errors import LorawrightError

__version__ = "0.1.0"
__all__ = ["LorawrightError", "__version__"]
