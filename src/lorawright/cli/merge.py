"""`lorawright merge RUN`: one model from base and adapter, proven against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorawright.cli.options import Json, MaxKl, Output, Overwrite, ProofData, Run
from lorawright.i18n import units


def merge(
    run: Run,
    output: Output = None,
    data: ProofData = None,
    max_kl: MaxKl = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Merge the adapter into its base, and compare the two."""
    from lorawright.cli import console
    from lorawright.cli.progress import TaskBar
    from lorawright.distributed.signals import quiet
    from lorawright.run.folder import open_run, read_config

    folder, _ = open_run(run)
    config = read_config(folder)
    quiet()
    from lorawright.cli.verdict import renew_report
    from lorawright.exporters import merge as stage

    options = stage.Options(Path(output) if output else None, data, max_kl, overwrite)
    with TaskBar(quiet=json) as progress:
        found = stage.run(folder, config, options, progress)
    console.note_unfinished(found["adapter"])
    renew_report(folder.path)
    if json:
        console.print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from lorawright.cli import console

    out = console.out()
    changed, of_all, dtype = found["num_merged"], found["num_tensors"], found["dtype"]
    size = units.size(found["num_bytes"])
    text = f"{changed} of {of_all} tensors changed, {size} in {dtype}"
    out.print(console.lead("bold green", "merged", text))
    out.print(f"against base + adapter: {console.divergence(found)}")
    if found["as_trained"] is not None:
        apart = console.divergence(found["as_trained"])
        out.print(f"against the quantized base + adapter: {apart}")
    out.print(f"model: {found['path']}")
