"""The verbs of the command line as functions of Python; what `import lorawright` offers.

Stages are imported inside the functions: naming one loads no torch.
"""

from lorawright.api.functions import chat, check, evaluate, export, load_config, merge, train

__all__ = ["chat", "check", "evaluate", "export", "load_config", "merge", "train"]
