"""A hash of everything a data source says, so that encoded chats can be cached by content."""

from __future__ import annotations

import hashlib
import os

from lorawright.config.schema import DataSettings
from lorawright.data.file_names import open_file
from lorawright.data.sources import HubSet, find_sources
from lorawright.errors import DataError
from lorawright.types import Split

Contents = dict[tuple[str, str], str]


def contents(settings: DataSettings) -> Contents | None:
    """Digests of all files by set and name; None where they are on the hub or cannot be opened."""
    found: Contents = {}
    for source, split in ((settings.train, Split.TRAIN), (settings.eval, Split.EVAL)):
        if not isinstance(source, str):
            continue
        try:
            for file in find_sources(source, split):
                if isinstance(file, HubSet):
                    return None
                with open_file(file.path) as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
                found[str(split), file.name] = digest
        except (DataError, OSError):
            return None  # the reader reports it, with its address
    return found


def fingerprint(found: Contents) -> str:
    """One hash of all files."""
    digest = hashlib.sha256()
    for (split, name), content in found.items():
        digest.update(os.fsencode(f"{split}\0{name}\0{content}\n"))
    return digest.hexdigest()


def changed(before: Contents, after: Contents | None) -> list[str]:
    """Names of files that came, went, or hold something else now."""
    now = after or {}
    keys = dict.fromkeys([*before, *now])
    return [name for split, name in keys if before.get((split, name)) != now.get((split, name))]
