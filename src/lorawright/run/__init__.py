"""A run on disk: folder, lock, checkpoints, facts and model card; takes plain values."""

from lorawright.run.events import Event, Tell, silent
from lorawright.run.folder import RunFolder, open_run, read_config
from lorawright.run.outcome import Outcome

__all__ = [
    "Event",
    "Outcome",
    "RunFolder",
    "Tell",
    "open_run",
    "read_config",
    "silent",
]
