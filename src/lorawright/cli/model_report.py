"""`lorawright doctor --model X`: what a model's template and architecture allow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorawright.i18n.catalogue import translate

if TYPE_CHECKING:
    from lorawright.exporters.small_family import FamilyProof, Handed
    from lorawright.masks.cases import CaseResult

LABEL_WIDTH = 20
CASE_NAMES = (
    "one turn", "system message", "three turns", "white space", "a call", "two calls",
    "a later call", "reasoning", "<think> in content", "reasoning, a call",
)  # fmt: skip
"""Of `masks.cases`, for the catalogue."""


def examine(name: str, revision: str | None) -> dict[str, Any]:
    """Chats of each kind by its template, then its architecture at small size; plain data.

    Raises:
        LorawrightError: The model cannot be found, or its files read.
    """
    from lorawright import hub, masks
    from lorawright.errors import TemplateError
    from lorawright.exporters import small_family
    from lorawright.masks import cases

    folder = hub.tokenizer_folder(name, revision)
    found: dict[str, Any] = {"model": name, "template": None, "cases": [], "architecture": None}
    try:
        tokenizer = masks.load(folder, name)
        found["cases"] = [_case(one) for one in cases.check(tokenizer)]
    except TemplateError as error:
        found["template"] = {"problem": error.what, "hint": error.hint}
    with tempfile.TemporaryDirectory(prefix="lorawright-") as work:
        found["architecture"] = _architecture(small_family.check(folder, Path(work)))
    return found


def _case(one: CaseResult) -> dict[str, Any]:
    problem = one.problem
    return {
        "chat": one.name,
        "num_sequences": one.num_sequences,
        "problem": None if problem is None else problem.message,
        "path": None if problem is None else problem.path,
        "hint": None if problem is None else problem.hint,
    }


def _architecture(proof: FamilyProof) -> dict[str, Any]:
    return {
        "model_type": proof.model_type,
        "attention": proof.attention,
        "shares_prefixes": proof.shares,
        "largest_loss_difference": proof.difference,
        "exact": proof.is_exact,
        "problem": proof.problem,
        "merge": _handed(proof.merged),
        "gguf": _handed(proof.converted),
    }


def _handed(handed: Handed | None) -> dict[str, Any] | None:
    return None if handed is None else {"mean_kl": handed.mean_kl, "problem": handed.problem}


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    from lorawright.cli import console

    out = console.out()
    out.print(f"{found['model']}\n", markup=False, style="bold")
    if found["template"] is not None:
        out.print(translate(found["template"]["problem"]), markup=False)
        console.note(translate(found["template"]["hint"] or ""))
    for case in found["cases"]:
        out.print(f"{_padded(case['chat'])} {_verdict(case)}", markup=False)
    out.print()
    for label, text in _facts(found["architecture"]):
        out.print(f"{_padded(label)} {text}", markup=False)


def _verdict(case: dict[str, Any]) -> str:
    number = case["num_sequences"]
    if number == 1:
        return translate("trained as one sequence")
    if number:
        return translate(f"trained as {number} sequences")
    return translate("refused: ") + f"{case['path']} {translate(case['problem'])}"


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    if found["problem"] is not None:
        return [("architecture", f"{found['model_type']}: {translate(found['problem'])}")]
    shared = "chats share passes and beginnings" if found["shares_prefixes"] else "chat by chat"
    exact = "exact" if found["exact"] else "not exact"
    return [
        ("architecture", found["model_type"]),
        ("attention", f"{translate(found['attention'])}; {translate(shared)}"),
        ("loss", translate(
            f"{translate(exact)}: within {found['largest_loss_difference']:.1e} of plain "
            "Transformers"
        )),
        ("merge", _of(found["merge"])),
        ("GGUF", _of(found["gguf"])),
    ]  # fmt: skip


def _of(handed: dict[str, Any]) -> str:
    if handed["problem"] is not None:
        return translate("refused: ") + translate(handed["problem"])
    return translate(f"mean KL {handed['mean_kl']:.1e}")


def _padded(label: str) -> str:
    """A Chinese character is two columns wide."""
    from rich.cells import set_cell_size

    return set_cell_size(translate(label), LABEL_WIDTH)
