"""A derived value of the config with its reason, and such values laid over a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lorawright.config.schema import Config

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Setting(Generic[Value]):
    """A value and why it is so.

    Attributes:
        value: What the key of the config becomes.
        reason: For the user; None where the value is as written.
    """

    value: Value
    reason: str | None = None


def lay_over(config: Config, settled: Mapping[str, Setting[Any]]) -> Config:
    """The config with other values; nothing is validated again.

    Args:
        config: As it was.
        settled: Dotted key → its value.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, one in settled.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = one.value
    update = {
        section: getattr(config, section).model_copy(update=values)
        for section, values in sections.items()
    }
    return config.model_copy(update=update)
