"""Files, folders, hub sets → validated `Conversation`s that know where they stand; no torch."""

from lorawright.data.formats import detect
from lorawright.data.problems import as_error
from lorawright.data.reader import FoundFile, Reader, stream
from lorawright.data.sources import EXTENSIONS, DataFile, HubSet, find_sources

__all__ = [
    "EXTENSIONS",
    "DataFile",
    "FoundFile",
    "HubSet",
    "Reader",
    "as_error",
    "detect",
    "find_sources",
    "stream",
]
