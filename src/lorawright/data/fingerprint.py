"""A hash of everything a data source says, so that encoded chats can be cached by content."""

from __future__ import annotations

import hashlib

from lorawright.config.schema import DataSettings
from lorawright.data.files import open_file
from lorawright.data.sources import HubSet, find_sources
from lorawright.errors import DataError
from lorawright.types import Split


def fingerprint(settings: DataSettings) -> str | None:
    """Names and contents of all files; None where they are on the hub or cannot be opened."""
    digest = hashlib.sha256()
    for source, split in ((settings.train, Split.TRAIN), (settings.eval, Split.EVAL)):
        digest.update(str(split).encode())
        if not isinstance(source, str):
            continue
        try:
            for found in find_sources(source, split):
                if isinstance(found, HubSet):
                    return None
                digest.update(found.name.encode())
                with open_file(found.path) as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        except (DataError, OSError):
            return None  # the reader reports it, with its address
    return digest.hexdigest()
