"""What the paths of a config are relative to.

    in a config file    to that file, wherever the command is started
    in `--set`          to the current folder, as in a shell
    in a run            to the run's own folder; what lies outside by its whole path

A name that may be a hub id and does not lie beside the config is a hub id.
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from lorawright import hub
from lorawright.config.schema import Config

MODEL = ("model", "name")
OUTPUT = ("training", "output")
PATH_KEYS = (
    MODEL,
    ("template", "generation_tags"),
    ("data", "train"),
    ("data", "eval"),
    OUTPUT,
)
OWN = "."  # the output of a run's own config


def anchored(config: Config, folder: Path, kept: Container[str] = ()) -> Config:
    """Its relative paths led to the folder of its file.

    Args:
        config: As written, defaults included.
        folder: Of the file.
        kept: Dotted keys that are relative to the current folder.
    """
    values = {
        key: _anchored(key, value, folder)
        for key, value in _paths(config).items()
        if ".".join(key) not in kept
    }
    return _with(config, values)


def self_contained(config: Config, folder: Path) -> Config:
    """For the run's own config.yaml: what is inside by its place, all else by its whole path."""
    values: dict[tuple[str, str], str] = {
        key: _placed(value, folder) for key, value in _paths(config).items() if key != OUTPUT
    }
    return _with(config, {**values, OUTPUT: OWN})


def _paths(config: Config) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for section, name in PATH_KEYS:
        value = getattr(getattr(config, section), name)
        if isinstance(value, str):
            found[section, name] = value
    return found


def _with(config: Config, values: dict[tuple[str, str], str]) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    for (section, name), value in values.items():
        sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=changed)
            for section, changed in sections.items()
        }
    )


def _anchored(key: tuple[str, str], value: str, folder: Path) -> str:
    expanded = os.path.expanduser(value)
    if os.path.isabs(expanded):
        return expanded
    if "://" in value or (key == MODEL and value == hub.TINY):
        return value
    if folder.resolve() == Path.cwd():
        return value
    beside = folder / value
    if key[0] not in ("model", "data") or os.path.lexists(beside):
        return str(beside)
    if key == MODEL and hub.may_be_model(value):
        # hub ids are looked for as folders first, and the current folder is not the config's
        return hub.HUB + value if os.path.lexists(value) else value
    if key[0] == "data" and _is_data_id(value, folder):
        return hub.HUB + value
    return str(beside)


def _is_data_id(value: str, folder: Path) -> bool:
    is_path = (folder / Path(value).parts[0]).is_dir()
    return hub.match_set(value) is not None and not is_path


def _placed(value: str, folder: Path) -> str:
    if value == hub.TINY or "://" in value or not os.path.lexists(os.path.expanduser(value)):
        return value
    whole, run = os.path.abspath(os.path.expanduser(value)), os.path.abspath(folder)
    return os.path.relpath(whole, run) if whole.startswith(run + os.sep) else whole
