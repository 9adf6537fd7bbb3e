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
    from lorawright.distributed.signals import quiet
    from lorawright.run.folder import open_run, read_config

    folder, _ = open_run(run)
    config = read_config(folder)
    quiet()
    from lorawright.cli.verdict import renew_report
    from lorawright.evaluation import run as stage

    options = stage.Options(data, base, samples, max_new_tokens, lm_eval)
    with TaskBar(quiet=json) as progress:
        found = stage.run(folder, config, options, progress)
    console.note_unfinished(found["adapter"])
    page = renew_report(folder.path)
    if json:
        console.print_json(found)
        return
    _print(found)
    out = console.out()
    out.print(f"all figures and answers: {folder.path / stage.RESULT}", markup=False)
    if page is not None:
        out.print(f"report: {page}", markup=False)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from lorawright.cli import console
    from lorawright.i18n.catalogue import translate

    out, data = console.out(), found["data"]
    out.print(
        f"{_name(data['name'])}: {console.number(data['num_chats'])} chats, "
        f"{console.number(data['num_trained_tokens'])} trained tokens",
        markup=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("base", "tuned"):
        table.add_column(translate(name), justify="right")
    for label, key, form in ROWS:
        cells = [_cell(found[name], key, form) for name in ("base", "tuned")]
        if cells != [NOTHING, NOTHING]:  # no tool was called, no answer asked for
            table.add_row(translate(label), *cells)
    for group in ("by_role", "by_length"):
        for name, pair in found[group].items():
            unit = translate("loss, role" if group == "by_role" else "loss, tokens")
            cells = [_cell(pair[model], "loss", ".4f") for model in ("base", "tuned")]
            table.add_row(f"{unit} {name}", *cells)
    out.print(table)
    _print_verdict(found)
    _print_sample(found)


def _name(name: str) -> str:
    from lorawright.report.page import is_fraction

    return "evaluation set" if is_fraction(name) else name


def _print_verdict(found: dict[str, Any]) -> None:
    """What the figures say, and by how much answers moved."""
    from lorawright.cli import console
    from lorawright.cli.verdict import in_words
    from lorawright.i18n.catalogue import translate
    from lorawright.run.outcome import judge, margin

    out, base, error = console.out(), found["base"], found["standard_error"]
    if base is None:
        return
    before, after = base["loss"], found["tuned"]["loss"]
    least = f"{margin(before, error):.4f}"
    figures = translate(
        f"loss {before:.4f} → {after:.4f}; a difference below {least} may be chance"
    )
    out.print(in_words(judge(before, after, error), figures))
    if found["answers"] is not None:
        better, worse, equal = (found["answers"][key] for key in ("better", "worse", "equal"))
        out.print(
            f"answers: {better} better, {worse} worse, {equal} as good as the base's "
            "(by exact match, then by more than one point of chrF)"
        )


NOTHING = "–"
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
    return NOTHING if value is None else format(value, form)


def _print_sample(found: dict[str, Any]) -> None:
    """The first answer that changed, in full; the rest stands in the file."""
    from lorawright.cli import console
    from lorawright.run.outcome import Change, answer_change

    if not found["samples"]:
        return
    samples, out = found["samples"], console.out()
    sample = next((one for one in samples if one["base"] != one["tuned"]), samples[0])
    base, tuned = sample["scores"]["base"], sample["scores"]["tuned"]
    change = answer_change(base, tuned) if base and tuned else Change.UNCLEAR
    mark = "" if change is Change.UNCLEAR else f" ({change})"
    out.print(f"\n{sample['file']}:{sample['line']}{mark}", markup=False)
    for name in ("reference", "base", "tuned"):
        if sample[name] is not None:
            out.print(console.lead("bold", name, sample[name]))
