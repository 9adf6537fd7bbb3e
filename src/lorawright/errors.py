"""Every error a user can cause, in one tree.

    LorawrightError                 exit code 1
    ├── ConfigError    (ValueError)    exit code 2: the config or the command line
    ├── DataError      (ValueError)    rows, files and folders of chats
    ├── TemplateError  (ValueError)    a chat template that is missing or cannot be proven
    ├── ModelError     (ValueError)    a model or adapter that cannot be loaded or does not fit
    ├── RunFolderError (ValueError)    a run folder that is missing, taken or half written
    └── TrainError     (RuntimeError)  training started and had to stop

The command line prints one as `error: WHERE: WHAT`, a blank line and `hint: WHAT TO DO`.
"""

from __future__ import annotations


class LorawrightError(Exception):
    """Base of all errors that are answered with one line, an address and a hint.

    Args:
        what: What is wrong, with the value that was found.
        where: The address: a file, `file:line`, a config key, a model name.
        hint: What to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{where}: {what}" if where else what)
        self.what = what
        self.where = where
        self.hint = hint


class ConfigError(LorawrightError, ValueError):
    """The config file or the command line is wrong."""

    exit_code = 2


class DataError(LorawrightError, ValueError):
    """A file or folder of chats, or a row in one, is wrong."""


class TemplateError(LorawrightError, ValueError):
    """The chat template is missing, broken, or its masks cannot be proven."""


class ModelError(LorawrightError, ValueError):
    """A model or an adapter cannot be loaded, or they do not belong together."""


class RunFolderError(LorawrightError, ValueError):
    """A run folder is missing, already taken, or half written."""


class TrainError(LorawrightError, RuntimeError):
    """Training had to stop."""
