"""`lorawright evaluate RUN`: base and tuned model side by side, on chats that were not trained."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lorawright.cli.options import Json, Run


def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Chats to use instead of the run's evaluation set."),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base/--no-base", help="Measure the base model too.")
    ] = True,
    samples: Annotated[int, typer.Option(min=0, help="Answers that are generated; 0: none.")] = 32,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer; one that reaches it did not stop.")
    ] = 512,
    lm_eval: Annotated[
        str | None,
        typer.Option("--lm-eval", metavar="TASKS", help="Hand over to lm-evaluation-harness."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare base and tuned model: loss, answers, whether they stop."""
    from lorawright.cli import console
    from lorawright.cli.progress import TaskBar
    from lorawright.cli.quiet import quiet
    from lorawright.run_folder import open_run, read_config

    folder, _ = open_run(run)
    config = read_config(folder)
    quiet()
    from lorawright import evaluate as stage

    options = stage.Options(data, base, samples, max_new_tokens, lm_eval)
    with TaskBar(quiet=json) as progress:
        found = stage.run(folder, config, options, progress)
    console.note_unfinished(found["adapter"])
    if json:
        console.print_json(found)
    else:
        _print(found, str(folder.path / stage.RESULT))


def _print(found: dict[str, Any], path: str) -> None:
    from rich.table import Table

    from lorawright.cli import console
    from lorawright.i18n import translate

    out, data = console.out(), found["data"]
    out.print(
        f"{data['name']}: {console.number(data['num_chats'])} chats, "
        f"{console.number(data['num_trained_tokens'])} trained tokens",
        markup=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("base", "tuned"):
        table.add_column(translate(name), justify="right")
    for label, key, form in ROWS:
        table.add_row(
            translate(label), *(_cell(found[name], key, form) for name in ("base", "tuned"))
        )
    for group in ("by_role", "by_length"):
        for name, pair in found[group].items():
            unit = translate("loss, role" if group == "by_role" else "loss, tokens")
            cells = (_cell(pair[model], "loss", ".4f") for model in ("base", "tuned"))
            table.add_row(f"{unit} {name}", *cells)
    out.print(table)
    _print_sample(found)
    out.print(f"all figures and answers: {path}", markup=False)


ROWS = (
    ("loss per token", "loss", ".4f"),
    ("perplexity", "perplexity", ".2f"),
    ("token accuracy", "token_accuracy", ".1%"),
    ("stops in time", "stop", ".0%"),
    ("exact match", "exact_match", ".0%"),
    ("chrF", "chrf", ".1f"),
    ("ROUGE-L", "rouge_l", ".3f"),
    ("tool calls: parse", "tool_calls.parses", ".0%"),
    ("tool calls: name", "tool_calls.name", ".0%"),
    ("tool calls: arguments", "tool_calls.arguments", ".0%"),
    ("tool calls: exact", "tool_calls.exact", ".0%"),
)


def _cell(figures: dict[str, Any] | None, key: str, form: str) -> str:
    value: Any = figures
    for part in key.split("."):
        value = None if value is None else value[part]
    return "–" if value is None else format(value, form)


def _print_sample(found: dict[str, Any]) -> None:
    """The first answer, in full; the rest stands in the file."""
    from lorawright.cli import console

    if not found["samples"]:
        return
    sample, out = found["samples"][0], console.out()
    out.print(f"\n{sample['file']}:{sample['line']}", markup=False)
    for name in ("reference", "base", "tuned"):
        if sample[name] is not None:
            out.print(console.lead("bold", name, sample[name]))
