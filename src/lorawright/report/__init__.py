"""A run, or several, as one HTML page that needs nothing else: `write(run)`, `compare(runs)`."""

from lorawright.report.page import compare, write
from lorawright.report.words import LANGUAGES, Language, own_language

__all__ = ["LANGUAGES", "Language", "compare", "own_language", "write"]
