"""The typed config: one YAML file, `--set` options, every error at once; no torch."""

from lorawright.config.load import ConfigProblems, Loaded, load, load_leniently
from lorawright.config.schema import Config

__all__ = ["Config", "ConfigProblems", "Loaded", "load", "load_leniently"]
