"""Facts → HTML: one file with its styles, its curves and the library that draws them.

All text goes through Jinja's autoescape; data for the curves stands in a JSON block, escaped too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lorawright.i18n import units
from lorawright.i18n.catalogue import translate
from lorawright.masks import view
from lorawright.report.charts import charts
from lorawright.report.summary import Sentence, Summary, Tone, resume_command, summarize
from lorawright.report.words import Language, words
from lorawright.run import card, checkpoint, outcome, outputs
from lorawright.run import facts as run_facts
from lorawright.run.facts import RunFacts, SampleRow
from lorawright.run.outcome import Change, judge, margin

FILE = "report.html"
OUTPUT = "training.output"


def write(run: str | Path, language: Language, out: Path | None = None) -> Path:
    """The page of a run; by default `report.html` inside it.

    Raises:
        RunFolderError: There is no run, or a file of it is damaged.
        ConfigError: A file stands there that is no page of ours.
    """
    facts = run_facts.read(run)
    path = out or facts.path / FILE
    if out is not None:
        outputs.refuse_foreign_page(out, "--out")
    checkpoint.write_atomically(path, render(facts, language).encode())
    return path


def compare(runs: Sequence[str | Path], language: Language, out: Path) -> Path:
    """Several runs in one page: settings that differ, results, curves over each other.

    Raises:
        LorawrightError: As `write`.
    """
    outputs.refuse_foreign_page(out, "--out")
    all_facts = [run_facts.read(run) for run in runs]
    checkpoint.write_atomically(out, render_comparison(all_facts, language).encode())
    return out


def render(facts: RunFacts, language: Language) -> str:
    """The page of one run."""
    t = words(language)
    page = _environment(t, language).get_template("run.html.jinja")
    return page.render(
        **_shared(language, t),
        f=facts,
        s=summarize(facts),
        charts=_charts([facts], t),
        changed=_reasons(facts),
        samples=changed_first(facts),
        exports=exports(facts),
        commands=commands(facts),
        config_name=config_name(facts),
    )


def render_comparison(runs: Sequence[RunFacts], language: Language) -> str:
    """The page of several runs."""
    t = words(language)
    names = unique_names([facts.path for facts in runs])
    page = _environment(t, language).get_template("compare.html.jinja")
    summaries: list[Summary] = [summarize(facts) for facts in runs]
    return page.render(
        **_shared(language, t),
        runs=list(zip(names, runs, summaries, strict=True)),
        charts=_charts(runs, t, names),
        differing=differing([facts.config for facts in runs]),
        verdict=verdict(names, runs, summaries),
        highest=max((s.compared.after or 0.0 for s in summaries), default=0.0),
    )


def _shared(language: Language, t: dict[str, str]) -> dict[str, Any]:
    """What both pages need."""
    from lorawright import __version__

    return {
        "language": str(language),
        "t": t,
        "version": __version__,
        "css": Markup(_asset("uPlot.min.css") + _asset("style.css") + view.TOKEN_CSS),
        "plot": Markup(f"/*\n{_asset('uPlot.LICENSE')}\n*/\n{_asset('uPlot.iife.min.js')}"),
        "script": Markup(_asset("charts.js")),
    }


def _asset(name: str) -> str:
    return (files("lorawright") / "assets" / "report" / name).read_text(encoding="utf-8")


def outside(text: str, language: Language) -> str:
    """The one way through which words of other modules come into the page.

    Messages of rows that were left out, and reasons of derived settings.
    """
    return translate(text, language)


def _environment(t: dict[str, str], language: Language) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lorawright", "assets/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "whole": lambda value: f"{value:,.0f}",
        "short": short,
        "percent": lambda value: f"{value:.1%}".replace(".0%", "%"),
        "kl": lambda value: f"{value:.1e}" if value else "0",
        "bytes": units.size,
        "duration": partial(units.duration, forms=(t["seconds"], t["minutes"], t["hours"])),
        "code": code,
        "setting": setting,
        "tokens_html": tokens_html,
        "say": say,
        "outside": partial(outside, language=language),
        "kind": lambda name: t.get(f"kind_{name}", name),
        "data_name": lambda name: data_name(name, t),
        "base_name": base_name,
        "answer_change": answer_change,
    }
    return environment


def say(text: str, **values: object) -> Markup:
    """A word with its values, escaped; `backticks` become code."""
    shown = {
        name: short(value) if isinstance(value, float) else value for name, value in values.items()
    }
    return code(text.format(**shown))


def data_name(name: Any, t: dict[str, str]) -> str:
    """What the chats of `evaluate` are called; a fraction of the training set has no name."""
    text = setting(name)
    return t["own_eval"] if is_fraction(text) else text


def is_fraction(text: str) -> bool:
    """`0.05`, as in `data.eval: 0.05`."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def base_name(value: Any) -> str:
    """A hub id as it is; of a local folder its last part."""
    name = value if isinstance(value, str) else setting(value)
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith((".", "~")) else name


def answer_change(scores: dict[str, Any]) -> str | None:
    """`better`, `worse`, or None: as good, or not compared."""
    base, tuned = scores.get("base"), scores.get("tuned")
    if not base or not tuned:
        return None
    change = outcome.answer_change(base, tuned)
    return None if change is Change.UNCLEAR else str(change)


def code(text: str) -> Markup:
    """Escaped text in which `…` is code."""
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:
        return Markup(escape(text))
    return Markup(
        "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
    )


def tokens_html(row: SampleRow) -> Markup:
    """A chat in colours, by the same code as `inspect --html`."""
    return Markup(view.spans(view.TokenText(*glyph) for glyph in row.glyphs))


def short(value: float | None) -> str:
    """Four digits that matter: 6.808, 0.0653, 1.2e-05, 12,345."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4:
        return f"{value:.2e}"
    return f"{value:,.{max(0, min(6, 3 - size))}f}"


def setting(value: Any) -> str:
    """A config value as one writes it in YAML; nothing set: a dash.

    Of a whole path its last two names: a report is shared, and home folders have people's names.
    """
    if value is None or value in ({}, []):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and os.path.isabs(value):
        return "/".join(Path(value).parts[-2:]).replace("//", "/")
    return ", ".join(map(setting, value)) if isinstance(value, list) else str(value)


def _charts(
    runs: Sequence[RunFacts], t: dict[str, str], names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    named = (
        runs
        if names is None
        else [replace(facts, name=name) for facts, name in zip(runs, names, strict=True)]
    )
    return [
        {
            "title": t[chart.key],
            "note": t["warm_up_note"] if chart.key == "learning_rate" and _warms_up(runs) else None,
            "wide": chart.wide,
            "xlabel": t["step"],
            "log": chart.key == "loss",
            "series": [series.for_page() for series in chart.series if series.points],
        }
        for chart in charts(named, t)
    ]


def _warms_up(runs: Sequence[RunFacts]) -> bool:
    return any(facts.steps and facts.steps[0].get("learning_rate") == 0 for facts in runs)


def _reasons(facts: RunFacts) -> dict[str, str]:
    reasons: dict[str, str] = facts.plan.get("reasons", {})
    return reasons


def changed_first(facts: RunFacts) -> list[dict[str, Any]]:
    """Answers that fine-tuning changed, before those it left as they were."""
    samples = (facts.evaluation or {}).get("samples") or []
    return sorted(samples, key=lambda sample: bool(sample["base"] == sample["tuned"]))


def exports(facts: RunFacts) -> list[dict[str, Any]]:
    """What was handed on, each with its proof; figures that are not there are None."""
    found: list[dict[str, Any]] = []
    if facts.merge is not None:
        found.append({"what": "merged", **facts.merge})
    for name, entry in (facts.gguf or {}).items():
        found.append({"what": f"GGUF {name.upper()}", **entry})
    if facts.ollama is not None:
        found.append({"what": "Ollama", **facts.ollama})
    if facts.vllm is not None:
        found.append({"what": "vLLM", **facts.vllm})
    keys = ("path", "num_bytes", "mean_kl", "max_kl", "top1_agreement")
    more = ("num_renders_equal", "num_renders")
    return [
        {"what": entry["what"], **{key: entry.get(key) for key in (*keys, *more)}}
        for entry in found
    ]


def config_name(facts: RunFacts) -> str | None:
    """File name of the config that was trained; None if a program has begun the run."""
    command = facts.plan.get("resume_command")
    return Path(command[2]).name if command else None


PYTHON = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{adapter}")
tokenizer = AutoTokenizer.from_pretrained("{adapter}")
chat = [{{"role": "user", "content": "Who are you?"}}]
ids = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True{arguments}
)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=200)[0]))"""


def commands(facts: RunFacts) -> list[tuple[str, str]]:
    """What can be done with the run: a word and the lines to copy."""
    if facts.state is not run_facts.State.FINISHED:
        return [("use_resume", resume_command(facts))]
    run, told = str(facts.path), card.template_arguments(facts)
    return [
        ("use_chat", f"lorawright chat {run}"),
        ("use_evaluate", f"lorawright evaluate {run}"),
        ("use_merge", f"lorawright merge {run}"),
        ("use_serve", f"lorawright chat {run} --serve"),
        ("use_python", PYTHON.format(adapter=f"{run}/adapter", arguments=told)),
    ]


def verdict(
    names: Sequence[str], runs: Sequence[RunFacts], summaries: Sequence[Summary]
) -> Sentence | None:
    """Which run is ahead on the evaluation set; None where fewer than two were evaluated."""
    found = [
        (summary.compared.after, name, evaluated_on(facts, summary))
        for name, facts, summary in zip(names, runs, summaries, strict=True)
        if summary.compared.after is not None
    ]
    if len(found) < 2:
        return None
    if len({chats for _, _, chats in found}) > 1:
        return Sentence(Tone.WARN, "not_comparable")
    (low, name, _), (high, other, _) = sorted(found)[:2]
    values = {"name": name, "low": low, "other": other, "next": high}
    if judge(high, low) is Change.UNCLEAR:
        return Sentence(Tone.PLAIN, "no_winner", values | {"margin": margin(high)})
    return Sentence(Tone.GOOD, "lowest", values)


def evaluated_on(facts: RunFacts, summary: Summary) -> tuple[Any, ...]:
    """What tells one evaluation set from another: its numbers of chats and of tokens."""
    if summary.compared.by_evaluate and facts.evaluation:
        found = facts.evaluation["data"]
    else:
        found = facts.data.get("eval") or {}
    return (found.get("num_chats"), found.get("num_trained_tokens"))


def differing(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Dotted key and its value in each run, for settings that are not equal everywhere.

    Where a run lies is no setting of it: the names above say that.
    """
    flat = [dict(_flat(config)) for config in configs]
    keys = [key for key in dict.fromkeys(k for one in flat for k in one) if key != OUTPUT]
    rows = [(key, [one.get(key) for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def _flat(config: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (f"{section}.{name}", value)
        for section, values in config.items()
        for name, value in values.items()
    ]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Folder names; whole paths where two are equal."""
    names = [path.resolve().name for path in paths]
    return [
        name if names.count(name) == 1 else str(path)
        for name, path in zip(names, paths, strict=True)
    ]
