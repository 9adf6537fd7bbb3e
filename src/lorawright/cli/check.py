"""`lorawright check CONFIG`: everything that is wrong with config and data, in one pass."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from lorawright.cli.options import ConfigFile, Json, Overrides
from lorawright.types import Problem

if TYPE_CHECKING:
    from lorawright.config import Loaded

INDEX = re.compile(r"\[\d+\]")


def check(config: ConfigFile, set_: Overrides = None, json: Json = False) -> None:
    """List every problem of config and data, and prove the masks."""
    from lorawright.cli import console
    from lorawright.cli.progress import RowCounter
    from lorawright.config import load_leniently
    from lorawright.dataset import prepare
    from lorawright.errors import LorawrightError

    loaded = load_leniently(config, set_ or [])
    config_problems, prepared = list(loaded.problems), None
    problems: list[Problem] = []
    try:
        if loaded.readable:
            config_problems += _module_problems(loaded)
            with RowCounter(quiet=json) as progress:
                prepared = prepare.run(loaded.config, progress=progress)
            problems += prepared.problems
    except LorawrightError as error:
        if not config_problems and not json:
            raise
        problems.append(prepare.as_problem(error))
    problems = config_problems + problems
    errors = [problem for problem in problems if problem.severity == "error"]
    stats = {} if prepared is None else prepared.stats
    if json:
        console.print_json(
            {
                "ok": not errors,
                "problems": [_as_json(problem) for problem in problems],
                "stats": stats,
                "certificate": None if prepared is None else prepared.certificate,
            }
        )
    else:
        console.print_problems(_grouped(problems))
        if prepared is not None:
            _print_summary(prepared)
        if not errors:
            console.err().print(console.lead("bold green", "ok", "this config can be trained"))
        elif prepared is not None:  # the last line of what scrolled by
            num_errors = console.number(len(errors))
            console.err().print(
                console.lead("bold red", "not ok", f"errors: {num_errors}; they stand above")
            )
    if errors:
        raise typer.Exit(2 if config_problems else 1)


def _module_problems(loaded: Loaded) -> list[Problem]:
    """`lora.target_modules` against the model's config.json."""
    from lorawright import hub
    from lorawright.plan import target_modules

    settings = loaded.config.model
    found = target_modules.problem(
        loaded.config.lora, hub.tokenizer_folder(settings.name, settings.revision)
    )
    if found is None:
        return []
    what, hint = found
    return [
        loaded.problem("lora.target_modules", f"`lora.target_modules` {what}", hint),
    ]


def _as_json(problem: Problem) -> dict[str, object]:
    """Names of files and values that are not UTF-8 with escapes: JSON has no other bytes."""
    fields = {**asdict(problem), "where": problem.where}
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in fields.items()
    }


def _grouped(problems: list[Problem]) -> list[Problem]:
    """The same problem in many rows of a file as one, at its first address."""
    groups: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        path = INDEX.sub("[]", problem.path)
        same = (problem.file, problem.severity, problem.kind, path, problem.message, problem.hint)
        groups.setdefault(same, []).append(problem)
    return [_first_of(group) for group in groups.values()]


def _first_of(group: list[Problem]) -> Problem:
    first, num_rows = group[0], len({problem.line for problem in group})
    if num_rows == 1:
        return first
    return replace(first, message=f"{first.message} (in {num_rows:,} rows, first here)")


def _print_summary(prepared: object) -> None:
    from lorawright.cli import console
    from lorawright.dataset.prepare import Prepared

    assert isinstance(prepared, Prepared)
    stats, certificate = prepared.stats, prepared.certificate
    out = console.out()
    for file in stats["files"]:
        out.print(
            f"{file['split']}: {file['file']}: {console.number(file['num_rows'])} rows, "
            f"format {file['format']}",
        )
        if file["unused_keys"]:
            out.print(f"  columns not used: {', '.join(file['unused_keys'])}")
        if file["unused_message_keys"]:
            keys = ", ".join(file["unused_message_keys"])
            out.print(f"  keys of messages that no format knows: {keys}")
    for name, part in (("train", stats), ("eval", stats["eval"])):
        if part is None or not part["num_chats"]:
            continue
        share = part["num_trained_tokens"] / part["num_tokens"]
        out.print(
            f"{name}: {console.number(part['num_chats'])} chats, "
            f"{console.number(part['num_tokens'])} tokens, {share:.0%} trained; longest "
            f"{console.number(part['max_tokens'])}, median "
            f"{console.number(part['percentile_tokens']['50'])}"
        )
    if not certificate["num_rows"]:
        return
    num_tagged = certificate["agreed"]["by_generation_tags"]
    tagged = "" if num_tagged is None else f", your tags agree in {console.number(num_tagged)}"
    out.print(
        f"masks: {console.number(certificate['num_spans'])} trained spans in "
        f"{console.number(certificate['num_rows'])} rows, two derivations agree{tagged}; every "
        f"span ends with {', '.join(certificate['last_tokens'])}"
    )
