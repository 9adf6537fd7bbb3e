"""What a run came to, in the terminal's words; the figures are `outcome`'s, as in the report."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from lorawright import report
from lorawright.cli import console
from lorawright.errors import LorawrightError
from lorawright.i18n.catalogue import translate
from lorawright.run.outcome import Change, Outcome


def training_loss(found: Outcome) -> str:
    """`loss 2.1000 → 0.1200 (mean of the last 5 logged steps)`."""
    if found.first_loss is None or found.last_loss is None:
        return translate("no step was logged")
    first, last = f"{found.first_loss:.4f}", f"{found.last_loss:.4f}"
    if found.num_last == 1:
        return translate(f"loss {first} → {last} (last step)")
    return translate(f"loss {first} → {last} (mean of the last {found.num_last} logged steps)")


def evaluation(found: Outcome) -> Text:
    """`it learned: eval loss 6.8950 (base) → 0.4294`; without a verdict where there is none."""
    assert found.eval_last is not None
    if found.eval_first is None or found.change is None:
        return Text(translate(f"eval loss {found.eval_last:.4f}"))
    first, last = f"{found.eval_first:.4f}", f"{found.eval_last:.4f}"
    if found.eval_first_step == 0:
        return in_words(found.change, translate(f"eval loss {first} (base) → {last}"))
    step = found.eval_first_step
    return in_words(found.change, translate(f"eval loss {first} (step {step}) → {last}"))


def in_words(change: Change, figures: str) -> Text:
    """The verdict before its figures."""
    match change:
        case Change.BETTER:
            return console.lead("green", "it learned", figures)
        case Change.WORSE:
            return console.lead("red", "it got worse", figures)
    return console.lead("bold", "no clear change", figures)


def renew_report(run: Path) -> Path | None:
    """Writes the run's report again after a verb has added to it; None where it cannot be."""
    try:
        return report.write(run, report.own_language())
    except (LorawrightError, OSError) as error:  # what the verb came for is done
        console.note(f"the report is as it was: {error}")
        return None
