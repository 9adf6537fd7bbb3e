"""Values that a type and a bound cannot describe: paths, patterns, whole numbers."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import PydanticCustomError

MOST_NAME_BYTES = 255  # of one name in a path, on all common file systems
SEVERAL_NAMES = re.compile(r"[\w.]+(\s*,\s*[\w.]+)+")


def whole(value: Any) -> Any:
    """3.0 as 3: configs of other tools write epochs that way."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refused(kind: str, what: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{what}", {"what": what})  # a text may hold braces


GIVEN_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")


def variable(value: str) -> str:
    """A name that lorawright does not hand to chat templates itself."""
    if value in GIVEN_VARIABLES or value.endswith("_token"):
        raise _refused("variable", "expected a name that templates are not given already")
    return value


def place(value: str) -> str:
    """A path or a name on the hub that a file system can hold."""
    if any(len(part.encode(errors="replace")) > MOST_NAME_BYTES for part in value.split("/")):
        raise _refused("place", "expected names of at most 255 bytes in a path")
    return value


def target_modules(value: str | list[str]) -> str | list[str]:
    """A list of names, or a regular expression that compiles."""
    if isinstance(value, list):
        if not value or not all(name.strip() for name in value):
            raise _refused("modules", "expected a list of names, none of them empty")
        return value
    if SEVERAL_NAMES.fullmatch(value):
        names = ", ".join(name.strip() for name in value.split(","))
        raise _refused(
            "modules", f"which would be read as one regular expression; write the list `[{names}]`"
        )
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise _refused("modules", f"no regular expression: {str(error)[:80]}") from None
    if not value:
        raise _refused("modules", "expected a pattern, or `all-linear`")
    return value


def target_parameters(value: list[str] | None) -> list[str] | None:
    """A list of names, none of them blank; an empty list is none."""
    if value and not all(name.strip() for name in value):
        raise _refused("parameters", "expected a list of names, none of them empty")
    return value or None
