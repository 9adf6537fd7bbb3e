"""`lorawright plan CONFIG`: steps, tokens, memory and time, before anything is loaded."""

from __future__ import annotations

from lorawright.cli.options import ConfigFile, Json, Overrides


def plan(config: ConfigFile, set_: Overrides = None, json: Json = False) -> None:
    """Show the steps of a run, its memory and its time."""
    from lorawright.cli import console
    from lorawright.cli.progress import RowCounter
    from lorawright.cli.quiet import quiet
    from lorawright.config import load

    settings = load(config, set_ or []).config
    quiet()
    from lorawright import ready as stage
    from lorawright.screen import Screen

    with RowCounter(quiet=json) as progress:
        screen = Screen()
        screen.rows = progress  # type: ignore[method-assign] # one callback, no class needed
        ready = stage.get_ready(settings, screen)
    totals = stage.totals(ready.plan)
    memory = ready.resolved.memory
    num_tokens, num_computed = totals.num_tokens, totals.num_computed_tokens
    seconds = stage.estimate_seconds(ready, num_computed, totals.num_trained_tokens)
    facts = {
        "num_steps": len(ready.plan),
        "num_epochs": ready.config.training.epochs,
        "num_chats": len(ready.prepared.train),
        "num_tokens": num_tokens,
        "num_trained_tokens": totals.num_trained_tokens,
        "num_computed_tokens": num_computed,
        "num_passes": totals.num_passes,
        "exact": totals.exact,
        "peak_memory_bytes": None if memory is None else memory.total,
        "seconds": seconds,
        "derived": ready.resolved.reasons,
    }
    if json:
        console.print_json(facts)
        return
    out = console.out()
    num_steps = console.number(len(ready.plan))
    out.print(f"steps      {num_steps} of {settings.training.batch_size} chats")
    out.print(f"passes     {console.number(totals.num_passes)}, no padding")
    share = totals.num_trained_tokens / num_tokens
    out.print(f"tokens     {console.number(num_tokens)}, {share:.0%} trained")
    saved = num_tokens - num_computed
    out.print(
        f"prefixes   {console.number(num_computed)} tokens computed, {console.number(saved)} "
        f"({saved / num_tokens:.0%}) saved by what chats of a step begin with"
    )
    if memory is not None:
        out.print(
            f"memory     {memory.total / 1e9:.1f} GB: weights {memory.weights / 1e9:.1f}, "
            f"activations {memory.activations / 1e9:.1f}, logits {memory.logits / 1e9:.1f}, "
            f"adapter {memory.adapter / 1e9:.1f}"
        )
    if seconds is not None:
        out.print(f"time       about {console.duration(seconds)} on {ready.resolved.hardware.name}")
    for key, reason in ready.resolved.reasons.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(ready.config, section), name)
        out.print(f"{key}: {value}  [dim]({reason})[/]")
