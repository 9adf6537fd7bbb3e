"""Collect every message that people see from the source into the catalogue of each language.

python tools/build_catalogue.py             writes src/lorawright/i18n/locale/zh/lorawright.po
python tools/build_catalogue.py --missing   prints what has no translation, as JSON; exits 1 if any
python tools/build_catalogue.py --add FILE  takes translations over from such a JSON, filled in

A message is a text that reaches a place of `SINKS`: directly, by a variable, by a parameter of the
function around it, as what a function returns, or as a value inside another message. f-strings
become text with numbered holes. Translations are kept; what is no longer in the source goes.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import write_po

from lorawright.i18n.catalogue import Language, read_catalogue

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lorawright"

# Calls whose arguments people read: by the name that is called, the positions of the texts.
SINKS: dict[str, set[int]] = {
    "OSError": {1},
    "Secret": {1},
    "warn": {0},
    "Problem": {3, 4},
    "Finding": {1, 2},
    "find": {1, 2},
    "UnprovenMask": {1, 2},
    "Missing": {1},
    "TagsDisagree": {0},
    "Choice": {1},
    "Check": {0},
    "progress": {0},
    "pulse": {0},
    "print": {0},
    "rule": {0},
    "note": {0},
    "Noted": {0},
    "Setting": {1},
    "lead": {1, 2},
    "translate": {0},
    "translate_comments": {0},
    "add_task": {0},
    "add_column": {0},
}
# Functions and constants that make texts which are data until they are shown.
ROOTS = (
    ("plan/run_plan.py", "_memory_warning"),
    ("plan/strategy.py", "_found"),
    ("plan/architecture.py", "_state"),
    ("plan/architecture.py", "one_chat_a_pass"),
    ("run/checkpoint.py", "NEEDED"),
    ("config/explain.py", "_words"),
    ("config/schedules.py", "TAKES"),
    ("config/schedules.py", "_together"),
    ("config/schedules.py", "_words"),
    ("config/schedules.py", "problems"),
    ("config/trl_fields.py", "EXPECTED"),
    ("config/trl_fields.py", "REFUSED"),
    ("config/trl_fields.py", "_optimizer_problems"),
    ("config/trl_fields.py", "_refused"),
    ("config/trl_fields.py", "_tracker_problems"),
    ("data/rows.py", "BINARY_STARTS"),
    ("cli/doctor.py", "examine"),
    ("cli/doctor.py", "_notes"),
    ("cli/model_report.py", "CASE_NAMES"),
    ("cli/model_report.py", "_facts"),
    ("exporters/eject.py", "_first_difference"),
    ("exporters/gguf_file.py", "_differences"),
    ("exporters/small_family.py", "check"),
    ("run/lock.py", "HINT"),
    ("run/outputs.py", "kept_places"),
    ("run/owned.py", "usual_places"),
    ("run/resume.py", "differences"),
)
# Whose texts may be a single word.
WORD_SINKS = {
    "translate",
    "lead",
    "add_column",
    "add_task",
    "progress",
}
KEYWORDS = {
    "what",
    "hint",
    "message",
    "help",
    "epilog",
    "description",
    "why",
    "reason",
    "because",
    "reasons",
}
# Scripts and command lines: for a shell, in whatever language.
SKIPPED = {"distributed/launch_files.py", "distributed/scripts.py", "distributed/signals.py"}
NOISE = re.compile(  # commands, links, styles, settings
    r"train --\S+|(pip|ollama|<!--|tar) .*|\[\{0\}\]\(https.*| --.*|bold red|\w+\.\w+: \w+"
)  # commands, styles, settings
UNITS = {"GB", "MB", "min"}
# Words that stand before a problem or a result.
SEVERITIES = ("error", "dropped", "warning", "ok")
# Keys of `doctor --json` that the terminal shows as labels.
LABELS = ("dtype", "optimizer", "attention", "threads", "waiting")
# Texts of typer, click, pydantic and orjson, which we show.
BORROWED = (
    "unexpected end of data",
    "unexpected character",
    "trailing comma is not allowed",
    "Usage: ",
    "Options",
    "Arguments",
    "Commands",
    "Show this message and exit.",
    "required",
    "default: {0}",
    "No such option: {0}",
    "No such option: {0} Did you mean {1}?",
    "No such option: {0} (Possible options: {1})",
    "No such command {0}.",
    "No such command {0}. Did you mean {1}?",
    "Missing argument {0}.",
    "Missing option {0}.",
    "Missing option {0}. {1}",
    "Missing command.",
    "Option {0} requires an argument.",
    "Option {0} does not take a value.",
    "Got unexpected extra argument ({0})",
    "Got unexpected extra arguments ({0})",
    "Invalid value for {0}: {1}",
    "Input should be a valid integer, unable to parse string as an integer",
    "Input should be a valid number, unable to parse string as a number",
    "Input should be greater than or equal to {0}",
    "Input should be less than or equal to {0}",
    "greater than {0}",
    "greater than or equal to {0}",
    "less than {0}",
    "less than or equal to {0}",
)


@dataclass
class Message:
    """Where a text stands, and what its holes are, for the translator."""

    files: set[str] = field(default_factory=set)
    holes: list[str] = field(default_factory=list)


Function = ast.FunctionDef
Scope = tuple["Module", tuple[Function, ...]]


class Module:
    """One file of the package."""

    def __init__(self, path: Path) -> None:
        self.name = str(path.relative_to(PACKAGE))
        self.stem = path.parent.name if path.stem == "__init__" else path.stem
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions: dict[str, list[Function]] = defaultdict(list)
        self.imported: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name].append(node)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lorawright"):
                self.imported |= {alias.name for alias in node.names}

    def walk(self) -> Iterator[tuple[ast.AST, tuple[Function, ...]]]:
        """Every node with the functions around it, the innermost last."""
        yield from _walk(self.tree, ())


def _walk(
    node: ast.AST, around: tuple[Function, ...]
) -> Iterator[tuple[ast.AST, tuple[Function, ...]]]:
    for child in ast.iter_child_nodes(node):
        yield child, around
        inner = (*around, child) if isinstance(child, ast.FunctionDef) else around
        yield from _walk(child, inner)


class Collector:
    """Walks the package until no new sink is found."""

    def __init__(self) -> None:
        self.modules = [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]
        self.modules = [module for module in self.modules if module.name not in SKIPPED]
        self.sinks = {name: set(places) for name, places in SINKS.items()}
        self.keywords: dict[str, set[str]] = defaultdict(set)
        self.messages: dict[str, Message] = defaultdict(Message)
        self._seen: set[tuple[int, ...]] = set()
        self._takes_words = False

    def run(self) -> dict[str, Message]:
        before = None
        while before != (sizes := self._sizes()):
            before = sizes
            self._seen.clear()
            for module in self.modules:
                for node, around in module.walk():
                    self._visit(node, (module, around))
        self._roots()
        self._docstrings()
        self._recipes()
        for text in BORROWED:
            self.messages[text].files.add("typer")
        for text in SEVERITIES:
            self.messages[text].files.add("types.py")
        for text in LABELS:
            self.messages[text].files.add("cli/doctor.py")
        return {text: found for text, found in self.messages.items() if _is_prose(text)}

    def _sizes(self) -> tuple[int, int]:
        by_name = sum(len(names) for names in self.keywords.values())
        return sum(len(places) for places in self.sinks.values()) + by_name, len(self.messages)

    def _visit(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Call):
            self._visit_call(node, scope)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("what", "hint"):
                    self.collect(value, scope)
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("reasons"):
                self.collect(node.value, scope)

    def _visit_call(self, call: ast.Call, scope: Scope) -> None:
        name = _called(call)
        self._takes_words = name in WORD_SINKS or name == "map"
        if name == "map" and ast.unparse(call.args[0]) == "translate":
            self.collect(call.args[1], scope)
        places = self.sinks.get(name, {0} if name.endswith("Error") else set())
        for number, argument in enumerate(call.args):
            if number in places:
                self.collect(argument, scope)
        for keyword in call.keywords:
            if keyword.arg in KEYWORDS or keyword.arg in self.keywords.get(name, ()):
                self.collect(keyword.value, scope)

    def collect(self, node: ast.expr, scope: Scope) -> None:
        """Takes the texts that an expression may stand for."""
        match node:
            case ast.Constant(value=str() as text):
                self._take(text, scope)
            case ast.JoinedStr():
                self._take_parts([node], scope)
            case ast.BinOp(op=ast.Add()):
                self._take_parts(list(_flatten(node)), scope)
            case ast.IfExp():
                self._each([node.body, node.orelse], scope)
            case ast.BoolOp():
                self._each(node.values, scope)
            case ast.Tuple() | ast.List():
                self._each(node.elts, scope)
            case ast.Dict():
                self._each(node.values, scope)
            case ast.NamedExpr() | ast.Starred():
                self.collect(node.value, scope)
            case ast.ListComp():
                self.collect(node.elt, scope)
            case ast.Name():
                self._collect_name(node.id, scope)
            case ast.Subscript():
                if not isinstance(node.value, ast.Attribute):
                    self.collect(node.value, scope)
            case ast.Call():
                self._collect_call(node, scope)

    def _each(self, nodes: list[ast.expr], scope: Scope) -> None:
        for node in nodes:
            self.collect(node, scope)

    def _take(self, text: str, scope: Scope, holes: list[str] | None = None) -> None:
        if " " not in text and not self._takes_words:
            return  # `auto`, a key, a name
        if text.startswith("# ") and "\n" in text:  # a config
            self._take_comments(text, scope[0].name)
            return
        message = self.messages[text]
        message.files.add(scope[0].name)
        message.holes = holes or message.holes

    def _take_parts(self, parts: list[ast.expr], scope: Scope) -> None:
        """Strings side by side, each value between them a hole."""
        text = ""
        holes: list[str] = []
        for part in parts:
            pieces = part.values if isinstance(part, ast.JoinedStr) else [part]
            for piece in pieces:
                if isinstance(piece, ast.Constant) and isinstance(piece.value, str):
                    text += piece.value
                    continue
                value = piece.value if isinstance(piece, ast.FormattedValue) else piece
                text += f"{{{len(holes)}}}"
                holes.append(ast.unparse(value))
                self.collect(value, scope)
        self._take(text, scope, holes)

    def _collect_name(self, name: str, scope: Scope) -> None:
        module, around = scope
        for depth in range(len(around), 0, -1):
            function, inner = around[depth - 1], (module, around[:depth])
            if not self._first_time(id(function), hash(name), self._takes_words):
                return
            found = list(_assigned(function, name, module.tree))
            self._each(found, inner)
            if _is_parameter(function, name):
                self._add_sink(function, name)
                return
            if found:
                return
        if self._first_time(id(module), hash(name), self._takes_words):
            self._each(list(_assigned(module.tree, name)), (module, ()))
            for other in self.modules:
                if other is not module and name.isupper() and name in module.imported:
                    self._each(list(_assigned(other.tree, name)), (other, ()))

    def _first_time(self, *key: int) -> bool:
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _add_sink(self, function: Function, name: str) -> None:
        names = [argument.arg for argument in function.args.args]
        is_method = bool(names) and names[0] == "self"
        called = function.name
        if called in ("run", "__init__", "translate"):
            return
        self.keywords[called].add(name)
        if name in names:
            self.sinks.setdefault(called, set()).add(names.index(name) - is_method)

    def _collect_call(self, call: ast.Call, scope: Scope) -> None:
        name = _called(call)
        if name == "get" and isinstance(call.func, ast.Attribute):
            self.collect(call.func.value, scope)
        elif name in ("str", "escape", "translate"):
            self._each(call.args[:1], scope)
        for module, function in self._resolve(call, scope[0]):
            if self._first_time(id(function), self._takes_words):
                around = (function,)
                for node, _ in _walk(function, around):
                    if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
                        self.collect(node.value, (module, around))

    def _resolve(self, call: ast.Call, module: Module) -> Iterator[tuple[Module, Function]]:
        """Our functions that a call may mean."""
        name = _called(call)
        of = call.func.value if isinstance(call.func, ast.Attribute) else None
        if of is None or (isinstance(of, ast.Name) and of.id == "self"):
            yield from ((module, function) for function in module.functions.get(name, ()))
            if module.functions.get(name) or name not in module.imported:
                return
        for other in self.modules:
            if of is None or (isinstance(of, ast.Name) and of.id == other.stem):
                yield from ((other, function) for function in other.functions.get(name, ()))

    def _roots(self) -> None:
        """Texts that are data until they are shown."""
        for file, name in ROOTS:
            (module,) = [module for module in self.modules if module.name == file]
            for value in _assigned(module.tree, name):
                keys = value.keys if isinstance(value, ast.Dict) else []
                self._each([value, *(key for key in keys if key is not None)], (module, ()))
            for function in module.functions[name]:
                for node, _ in _walk(function, (function,)):
                    if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
                        self.collect(node.value, (module, (function,)))

    def _docstrings(self) -> None:
        """What `--help` says of each verb."""
        (cli,) = [module for module in self.modules if module.name == "cli/app.py"]
        verbs = {name.id for name in _assigned_names(cli.tree, "VERBS")}
        for module in self.modules:
            if not module.name.startswith("cli/"):
                continue
            for name in verbs & set(module.functions):
                text = ast.get_docstring(module.functions[name][0])
                if text:
                    self._take(inspect.cleandoc(text), (module, ()))

    def _recipes(self) -> None:
        """Comments of the configs to copy, and their first lines."""
        for path in sorted((PACKAGE / "assets" / "recipes").glob("*.yaml")):
            self._take_comments(path.read_text("utf-8"), f"recipes/{path.name}")

    def _take_comments(self, config: str, file: str) -> None:
        for comment in re.findall(r"#\s+(.*)$", config, re.MULTILINE):
            meaning = comment.rpartition("  ")[2]
            if not meaning.startswith("lorawright "):
                self.messages[meaning].files.add(file)


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _flatten(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _flatten(node.left)
        yield from _flatten(node.right)
    else:
        yield node


def _assigned(tree: ast.AST, name: str, top: ast.Module | None = None) -> Iterator[ast.expr]:
    """What is assigned to a name, in a function or at a module's top."""
    nodes = ast.walk(tree) if isinstance(tree, ast.FunctionDef) else iter(tree.body)  # type: ignore[attr-defined]
    for node in nodes:
        match node:
            case ast.Assign(targets=[target, *_], value=value):
                yield from _from_target(target, value, name)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                yield from _from_target(target, value, name)
            case ast.AugAssign(target=target, value=value):
                yield from _from_target(target, value, name)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=of), attr="append"), args=[value]
            ) if of == name:
                yield value
            case ast.NamedExpr(target=target, value=value):
                yield from _from_target(target, value, name)
            case ast.For(target=target, iter=value):
                yield from _from_table(target, value, name, top)


def _from_table(
    target: ast.expr, value: ast.expr, name: str, top: ast.Module | None
) -> Iterator[ast.expr]:
    """What a name is in a loop over rows that are written out, here or at the module's top."""
    if isinstance(value, ast.Name) and top is not None:
        value = next(_assigned(top, value.id), value)
    if isinstance(value, ast.Tuple):
        for row in value.elts:
            yield from _from_target(target, row, name)
    elif isinstance(target, ast.Name) and target.id == name:
        yield value


def _from_target(target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(target, ast.Name) and target.id == name:
        yield value
    elif isinstance(target, ast.Tuple):
        pairs = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
        for number, part in enumerate(target.elts):
            if pairs:
                yield from _from_target(part, value.elts[number], name)  # type: ignore[attr-defined]
            elif isinstance(part, ast.Name) and part.id == name:
                yield value


def _assigned_names(tree: ast.AST, name: str) -> Iterator[ast.Name]:
    for value in _assigned(tree, name):
        yield from (node for node in ast.walk(value) if isinstance(node, ast.Name))


def _is_parameter(function: Function, name: str) -> bool:
    arguments = function.args
    return name in {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)}


def _is_prose(text: str) -> bool:
    """Whether there are words to translate, besides holes, markup, quoted values and units."""
    bare = re.sub(r"\{\d+\}|\[/?[a-z ]*\]|`[^`]*`|<[^>]*>", " ", text)
    words: list[str] = re.findall(r"[A-Za-z]+", bare)
    if NOISE.fullmatch(text):
        return False
    if text in SEVERITIES:
        return True
    if "{0}" not in text and " " not in text:
        return re.fullmatch(r"[A-Za-z]{3,}\W*", text) is not None
    if text.startswith("{0}") and sum(map(len, words)) < 4:
        return False  # `{0} of {1}` would fit anything
    return any(len(word) > 1 and word not in UNITS for word in words)


def build(language: str, messages: dict[str, Message], known: dict[str, str]) -> None:
    """Writes a catalogue: every message of the source, with the translations that are known."""
    catalogue = Catalog(locale=language)
    for text in sorted(messages, key=lambda text: (min(messages[text].files), text)):
        found = messages[text]
        holes = [f"{{{number}}}: {code}" for number, code in enumerate(found.holes)]
        places = [(name, None) for name in sorted(found.files)]  # no lines: they move
        catalogue.add(text, known.get(text, ""), locations=places, auto_comments=holes)
        catalogue[text].flags.clear()
    path = catalogue_path(language)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, catalogue, width=0, omit_header=True)


def catalogue_path(language: str) -> Path:
    return PACKAGE / "i18n" / "locale" / language / "lorawright.po"


def read(language: str) -> dict[str, str]:
    """The translations that are there."""
    path = catalogue_path(language)
    return read_catalogue(path.read_text("utf-8")) if path.is_file() else {}


def missing(messages: dict[str, Message], known: dict[str, str]) -> list[str]:
    """What has no translation, in the order of the files."""
    found = [text for text in messages if not known.get(text)]
    return sorted(found, key=lambda text: (min(messages[text].files), text))


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--add", metavar="FILE", type=Path)
    parser.add_argument("--language", default="zh", choices=[str(each) for each in Language])
    arguments = parser.parse_args()
    messages, known = Collector().run(), read(arguments.language)
    if arguments.missing:
        left = missing(messages, known)
        print(json.dumps(dict.fromkeys(left, ""), ensure_ascii=False, indent=0))
        return 1 if left else 0
    if arguments.add:
        known |= json.loads(arguments.add.read_text("utf-8"))
    build(arguments.language, messages, known)
    print(f"{len(messages)} messages, {len(missing(messages, known))} without a translation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
