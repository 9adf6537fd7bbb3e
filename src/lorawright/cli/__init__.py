"""The command line: one small file a verb; whatever is heavy is imported inside the verbs."""

from lorawright.cli.app import main, run

__all__ = ["main", "run"]
