"""A YAML file → plain values with the line of each key, and what in it has two readings.

tree = read(Path("config.yaml"))
tree.values["training"]["epochs"], tree.lines["training", "epochs"]   # 1, 7

Values are built here rather than by PyYAML, which reads `010` as 8, `1:30` as 90 and `yes:` as a
key that is no text, follows an alias into itself, and expands aliases without an end.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorawright.errors import ConfigError
from lorawright.types import Kind, Problem

Key = tuple[str | int, ...]

MOST_BYTES = 1_000_000
MOST_LEVELS = 32
MOST_NODES = 100_000  # aliases are expanded: a few lines can stand for billions of values
MOST_DIGITS = 30
OCTAL = re.compile(r"[-+]?0[0-7_]+")
BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
TAG = "tag:yaml.org,2002:"
NUMBERS = (TAG + "int", TAG + "float")
CONSTRUCTED = (*NUMBERS, TAG + "null", TAG + "bool")
PLAIN = (TAG + "str", TAG + "timestamp", TAG + "value", TAG + "merge")  # dates stay as written


@dataclass(slots=True)
class Tree:
    """What a file holds.

    Attributes:
        values: Sections and their keys; what has a problem is left out.
        lines: The line of each key.
        problems: Keys and values that cannot be taken.
    """

    values: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(path: Path) -> Tree:
    """Reads a config file.

    Raises:
        ConfigError: There is no such file, or it is not YAML with sections.
    """
    root = _composed(_text(path), str(path))
    builder = _Builder(str(path))
    values = {} if root is None else builder.build(root, ())
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"holds {type(values).__name__}, expected sections such as `model:` and `data:`",
            where=str(path),
            hint="`lorawright recipes` lists working configs",
        )
    return Tree(values, builder.lines, builder.problems)


def value_of(text: str, key: Key, where: str) -> tuple[Any, list[Problem]]:
    """The value of a `--set KEY=VALUE`; text that is no YAML stands for itself.

    Args:
        text: The value.
        key: Its key.
        where: How problems call it.

    Raises:
        ConfigError: It refers to itself, or has no end.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        root = yaml.ScalarNode(TAG + "str", text)
    builder = _Builder(where, has_lines=False)
    value = None if root is None else builder.build(root, key)
    return (None if value is FAULTY else value), builder.problems


def _text(path: Path) -> str:
    content = _content(path)
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"holds {len(content):,} bytes or more, expected at most {MOST_BYTES:,}",
            where=str(path),
            hint="name a config; chats belong into a file of their own",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"is not UTF-8 text (byte {error.start})", where=str(path), hint="save it as UTF-8"
        ) from None


def _content(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                return file.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            "no such config file", where=str(path), hint=_hint_for_folder(path.parent)
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path)[:200],
            hint="check its name and its permissions",
        ) from None
    except ValueError:  # a NUL, or half of a surrogate pair
        raise ConfigError(
            "is no file name", where=repr(str(path))[:200], hint="name a YAML file"
        ) from None
    if stat.S_ISDIR(mode):
        raise ConfigError(
            "is a folder, expected a YAML file",
            where=str(path),
            hint=_hint_for_folder(path),
        )
    raise ConfigError(  # a pipe would be waited for without an end
        "is no regular file, expected a YAML file",
        where=str(path),
        hint="write the config into a file and name that",
    )


def _hint_for_folder(folder: Path) -> str:
    """Names the configs inside."""
    try:
        found = sorted(
            str(path) for ending in ("yaml", "yml") for path in folder.glob(f"*.{ending}")
        )
    except OSError:
        found = []
    named = ", ".join(f"`{path}`" for path in found[:5])
    return f"did you mean {named}?" if found else "`lorawright init DIR` writes one"


class _Loader(yaml.SafeLoader):
    """PyYAML's, which calls itself once a level, with few levels."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MOST_LEVELS:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _TOO_DEEP, mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TOO_DEEP = f"nested deeper than {MOST_LEVELS} levels"


def _composed(text: str, file: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"holds the control character {int(error.character):#04x}",
            where=f"{file}:{line}",
            hint="take it out",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        what = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(
            f"is not valid YAML: {what}", where=where, hint="check indentation, colons and quotes"
        ) from None


class _Faulty:
    """In place of a value that has a problem."""


FAULTY = _Faulty()


class _Builder:
    """Nodes → plain values; collects lines and problems on the way."""

    def __init__(self, file: str, *, has_lines: bool = True) -> None:
        self.file = file
        self.has_lines = has_lines
        self.lines: dict[Key, int] = {}
        self.problems: list[Problem] = []
        self.num_nodes = 0
        self.open_nodes: list[yaml.Node] = []  # from the root to the one being built
        self.scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, key: Key) -> Any:
        """The value of a node at a key; FAULTY if it has a problem."""
        self._refuse_endless(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        self.open_nodes.append(node)
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node, key)
        else:
            items = [self.build(item, (*key, number)) for number, item in enumerate(node.value)]
            value = FAULTY if any(item is FAULTY for item in items) else items
        self.open_nodes.pop()
        return value

    def _refuse_endless(self, node: yaml.Node) -> None:
        self.num_nodes += 1
        where = f"{self.file}:{self._line(node)}" if self.has_lines else self.file
        if any(node is other for other in self.open_nodes):
            raise ConfigError("refers to itself", where=where, hint="take the alias (`*…`) out")
        if len(self.open_nodes) > MOST_LEVELS:  # through aliases of aliases
            raise ConfigError(_TOO_DEEP, where=where, hint="take aliases (`*…`) of aliases out")
        if self.num_nodes > MOST_NODES:
            raise ConfigError(
                f"holds more than {MOST_NODES:,} values",
                where=where,
                hint="take aliases (`*…`) of aliases out",
            )

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: set[str] = set()
        for name_node, value_node in node.value:
            if name_node.tag == TAG + "merge":
                merged |= self._merged(value_node, key)
                continue
            name = self._name(name_node, key)
            if name is None:
                continue
            here = (*key, name)
            if name in seen:
                self._add(name_node, here, f"key `{dotted(here)}` stands twice", "keep one of two")
                continue
            seen.add(name)
            self.lines.setdefault(here, self._line(name_node))
            value = self.build(value_node, here)
            if value is not FAULTY:
                found[name] = value
        return merged | found

    def _merged(self, node: yaml.Node, key: Key) -> dict[str, Any]:
        """What `<<: *other` brings along; earlier ones of a list win."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for one in nodes:
            value = self.build(one, key)
            if isinstance(value, dict):
                found = value | found
            else:
                self._add(one, (*key, "<<"), "`<<` merges no mapping", "write the keys themselves")
        return found

    def _name(self, node: yaml.Node, key: Key) -> str | None:
        """A key; None, and a problem, where YAML reads something else than text."""
        if not isinstance(node, yaml.ScalarNode):
            what = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
            self._add(node, key, f"a key is {what}, expected text", "write one name before each :")
            return None
        shown = str(node.value)[:60]
        if node.tag != TAG + "str":
            kind = KEY_KINDS.get(node.tag, "not text")
            self._add(
                node,
                (*key, shown),
                f"key `{shown}` is {kind} to YAML, expected the name of a setting",
                "keys are names such as `epochs`",
            )
            return None
        if _unfit(node.value):
            self._add(node, key, "a key holds a control character", "take it out")
            return None
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        text, plain = str(node.value), node.style is None
        if node.tag in PLAIN:
            if not _unfit(text):
                return text
            what, hint = "holds a character that no setting can", "take it out"
        elif node.tag in NUMBERS and plain and BASE_60.fullmatch(text):
            what = f"is `{text[:60]}`, a number of base 60 to YAML"
            hint = f"write the number as decimal, or the text as '{text[:60]}'"
        elif node.tag == TAG + "int" and plain and OCTAL.fullmatch(text):
            what = f"is `{text[:60]}`, an octal number to YAML"
            hint = f"write {_octal(text)}, or the text as '{text[:60]}'"
        elif node.tag == TAG + "int" and len(text) > MOST_DIGITS:
            what = f"is a whole number of {len(text):,} characters"
            hint = f"write at most {MOST_DIGITS}"
        elif node.tag in CONSTRUCTED:
            try:
                return self.scalars.construct_object(node)
            except (ValueError, OverflowError, yaml.YAMLError):
                what, hint = f"is `{text[:60]}`, which is no value", "check the number"
        else:
            what, hint = f"has the tag `{node.tag[:60]}`", "write a plain value, without a tag"
        self._add(node, key, f"`{dotted(key)}` {what}", hint)
        return FAULTY

    def _add(self, node: yaml.Node, key: Key, message: str, hint: str) -> None:
        line = self._line(node) if self.has_lines else None
        self.problems.append(Problem(self.file, line, dotted(key), message, hint, Kind.CONFIG))

    def _line(self, node: yaml.Node) -> int:
        return 0 if node.start_mark is None else int(node.start_mark.line) + 1


KEY_KINDS = {
    TAG + "int": "a number",
    TAG + "float": "a number",
    TAG + "bool": "true or false",
    TAG + "null": "nothing",
    TAG + "timestamp": "a date",
}


def _octal(text: str) -> str:
    digits = text.replace("_", "")
    return str(int(digits, 8)) if len(digits) <= MOST_DIGITS else "a decimal number"


def _unfit(text: str) -> bool:
    """NUL ends a path; half of a surrogate pair cannot be written as UTF-8."""
    return "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)


def dotted(key: Key) -> str:
    """`training.epochs`, `data.train[0]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
