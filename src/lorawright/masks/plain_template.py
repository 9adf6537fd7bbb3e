"""A chat template as every program reads it: without `{% generation %}` tags.

Transformers alone knows these tags. In their place stands `{% if true %}`, which opens and closes
a block at the same places with the same trimming of white space, so that the text stays equal.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


def plain(template: str) -> str:
    """The template without generation tags; one that has none comes back as it is."""
    return TAG.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}", template)


def remove_tags(folder: Path) -> None:
    """Rewrites the templates in a folder that is about to be handed on, where they have tags."""
    for path in [*folder.glob("*.jinja"), *folder.glob("*/*.jinja")]:
        source = path.read_text(encoding="utf-8")
        if plain(source) != source:
            path.write_text(plain(source), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = folder / name
        if path.is_file() and TAG.search(path.read_text(encoding="utf-8")):
            config = json.loads(path.read_text(encoding="utf-8"))
            config["chat_template"] = _plain_all(config["chat_template"])
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _plain_all(found: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
    if isinstance(found, str):
        return plain(found)
    return [{**entry, "template": plain(entry["template"])} for entry in found]
