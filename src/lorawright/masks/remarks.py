"""What is said once of all chats of a run, when the chat template has rendered the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lorawright.masks.encode import Encoder, MaskCounts
from lorawright.types import Kind, Problem, Severity

THINKING = "enable_thinking"
MOST_KEYS = 20  # named; data may have thousands


def of_keys(unknown: Sequence[Problem], counts: MaskCounts, name: str) -> Iterator[Problem]:
    """One remark a key of messages: lost, not rendered, or unknown; none where it is rendered.

    Args:
        unknown: What reading found: keys that no format knows.
        counts: Keys that the template rendered, and did not.
        name: The model's, for messages.
    """
    lost = dict(counts.idle_keys.most_common())
    seen: set[str] = set()
    for problem in unknown:
        key = problem.path.partition("].")[2]
        if key in seen:
            continue
        seen.add(key)
        if key in lost:
            yield replace(
                problem,
                message="is a key that no format knows and that this model's chat template does "
                f"not render: it is lost ({lost.pop(key)} messages)",
                hint="say in `content` what the model shall see, or remove the key",
            )
        elif key not in counts.rendered_keys:
            yield problem
    for key in sorted(list(lost)[:MOST_KEYS]):
        yield _remark(
            name,
            f"`{key}` of messages is not rendered by this model's chat template ({lost[key]} "
            "messages)",
            "it is not trained; say in `content` what the model shall see",
        )


def of_template(encoder: Encoder, name: str) -> Iterator[Problem]:
    """The day it writes, and the tokens at which the model stops."""
    tokenizer, end = encoder.tokenizer, encoder.markers.end
    day = tokenizer.template_date
    if day is not None:
        yield _remark(
            name,
            f"the chat template writes the date into every chat: {day} is trained",
            "the run keeps this date; set `template.date` for another",
        )
    yield from _of_reasoning(encoder, name)
    if not tokenizer.stop_ids:
        yield _remark(
            name,
            "no file of the model names a token at which it stops; answers are trained to end "
            f"with `{end}`",
            "give `eos_token_id` in the model's generation_config.json",
        )
    if encoder.markers.is_new_stop:
        stops = ", ".join(f"`{tokenizer.decode([one])}`" for one in tokenizer.generation_stops)
        yield _remark(
            name,
            f"answers end with `{end}`, at which this model's generation config does not stop "
            f"({stops} only), as base models do",
            "the token is trained, and `eos_token_id` in the generation_config.json of the adapter "
            "and the merged model names it too; a server that reads the base's own file needs it "
            "as a stop token",
        )


def _of_reasoning(encoder: Encoder, name: str) -> Iterator[Problem]:
    """Chats without reasoning teach a model that thinks to think nothing, in that mode too."""
    tokenizer, counts = encoder.tokenizer, encoder.counts
    thinks = THINKING in tokenizer.template + tokenizer.tool_template
    told = THINKING in tokenizer.variables or counts.num_own_variables
    if not thinks or told or counts.num_with_reasoning or not counts.num_rows:
        return
    yield _remark(
        name,
        "no chat has reasoning, and the chat template is not told so: answers are trained as the "
        "template writes them in its usual mode, mostly with an empty `<think>` block",
        "to train the mode without reasoning: `template.variables: {enable_thinking: false}`, here "
        "and where the model is served",
    )


def _remark(name: str, message: str, hint: str) -> Problem:
    return Problem(name, None, "", message, hint, Kind.TEMPLATE, Severity.WARNING)
