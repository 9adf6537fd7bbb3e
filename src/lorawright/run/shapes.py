"""JSON files of a run → validated shapes, for report, model card and push.

People edit files and disks damage them: what is read is compared with these first, so that a value
of another type is one line with its address, not an error in the middle of a page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lorawright.errors import RunFolderError

Number = Annotated[float, Field(ge=-1e30, le=1e30)]  # larger ones have no sums and no figures
Count = Annotated[int, Field(ge=0, le=10**15)]
Maybe = Number | None


class Shape(BaseModel):
    """A file, or a part of one; keys that are not read may hold anything."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Histogram(Shape):
    """Chats by length."""

    upto: Annotated[list[Count], Field(min_length=1)]
    num: list[Count]

    @model_validator(mode="after")
    def _has_chats(self) -> Self:
        if len(self.num) != len(self.upto) or not any(self.num):
            raise ValueError("a bin without its number of chats, or no chats")
        return self


class Lengths(Shape):
    """Histograms of both sets."""

    train: Histogram
    eval: Histogram | None


class Memory(Shape):
    """The estimate of memory, in bytes."""

    total: Number
    weights: Number = 0.0
    adapter: Number = 0.0
    activations: Number = 0.0
    logits: Number = 0.0
    runtime: Number = 0.0


class PlanFile(Shape):
    """plan.json."""

    started: str = ""
    num_steps: Count | None = None
    num_trainable: Count = 0
    num_parameters: Annotated[int, Field(ge=1, le=10**15)] = 1
    resume_command: Annotated[list[str], Field(min_length=3)] | None = None
    reasons: dict[str, str] = {}
    memory: Memory | None = None
    lengths: Lengths

    @model_validator(mode="after")
    def _names_both_numbers(self) -> Self:
        if ("num_trainable" in self.model_fields_set) != (
            "num_parameters" in self.model_fields_set
        ):
            raise ValueError("one of `num_trainable` and `num_parameters` is missing")
        return self


class Glyphs(Shape):
    """A chat of rows.json, token by token."""

    file: str
    line: int
    num_tokens: Count
    num_trained_tokens: Count
    glyphs: list[Annotated[list[Any], Field(min_length=3, max_length=3)]]

    @model_validator(mode="after")
    def _holds_glyphs(self) -> Self:
        for ids, text, trained in self.glyphs:
            if not (isinstance(ids, list) and isinstance(text, str) and isinstance(trained, bool)):
                raise ValueError("a glyph is a list of ids, a text, and true or false")
        return self


class RowsFile(Shape):
    """rows.json."""

    rows: list[Glyphs]


class ResultFile(Shape):
    """result.json."""

    peak_memory_bytes: Maybe = None


class Hardware(Shape):
    """The machine."""

    name: str
    device: str
    num_devices: Count
    num_threads: Count
    memory_bytes: Number


class EnvironmentFile(Shape):
    """environment.json."""

    python: str
    system: str
    packages: dict[str, str | None]
    hardware: Hardware
    base_weights_sample_sha256: str | None = None
    base_weights_sha256: str | None = None  # what it was called before 0.2


class Percentiles(Shape):
    """Lengths of chats; the page shows the median."""

    median: Count = Field(alias="50")


class ChatSet(Shape):
    """Counts of a set of chats."""

    num_chats: Count
    num_tokens: Count
    num_trained_tokens: Count
    max_tokens: Count
    percentile_tokens: Percentiles


class SourceFile(Shape):
    """A file of chats."""

    file: str
    split: Literal["train", "eval"]
    format: str | None
    num_rows: Count


class DataFile(ChatSet):
    """data.json."""

    eval: ChatSet | None = None
    files: list[SourceFile]
    num_by_kind: dict[str, Count]


class Agreed(Shape):
    """Rows on which derivations of the mask agreed."""

    by_text_and_ids: Count
    by_generation_tags: Count | None


class CertificateFile(Shape):
    """certificate.json."""

    train_on: Literal["assistant", "last_assistant", "all"]
    num_rows: Count
    num_spans: Count
    num_trained_tokens: Count
    agreed: Agreed
    generation_tags_problem: str | None = None
    first_tokens: dict[str, Count]
    last_tokens: dict[str, Count]
    data_sha256: str
    template_sha256: str
    tokenizer_sha256: str


class RejectedLine(Shape):
    """A line of rejected.jsonl."""

    file: str
    line: int | None
    path: str
    message: str


class ToolCalls(Shape):
    """Scores of tool calls."""

    parses: Maybe
    name: Maybe
    arguments: Maybe


class Figures(Shape):
    """What one model came to."""

    loss: Number
    perplexity: Maybe
    token_accuracy: Maybe
    exact_match: Maybe
    chrf: Maybe
    rouge_l: Maybe
    stop: Maybe
    tool_calls: ToolCalls | None


class Loss(Shape):
    """A mean loss and over how many tokens."""

    loss: Number
    num_tokens: Count


class LossPair(Shape):
    """The loss before and after."""

    base: Loss | None
    tuned: Loss


class Score(Shape):
    """Of one answer."""

    exact_match: bool
    chrf: Number
    stopped: bool


class Scores(Shape):
    """Of one answer, before and after."""

    base: Score | None
    tuned: Score | None


class Message(Shape):
    """A turn of a prompt."""

    role: str
    content: str | None = None


class Sample(Shape):
    """A question with its answers."""

    file: str
    line: int
    prompt: list[Message]
    reference: str | None
    base: str | None
    tuned: str | None
    scores: Scores


class Stop(Shape):
    """Shares of answers that end by themselves."""

    base: Maybe
    tuned: Maybe


class Evaluated(Shape):
    """The chats that were evaluated on."""

    name: str
    num_chats: Count
    num_trained_tokens: Count


class EvaluationFile(Shape):
    """evaluation.json."""

    data: Evaluated
    base: Figures | None
    tuned: Figures
    standard_error: Maybe = None
    stop: Stop
    by_length: dict[str, LossPair]
    by_role: dict[str, LossPair]
    samples: list[Sample]


class ExportFile(Shape):
    """What `merge` and the exports note; GGUF's file has one of these a file type."""

    path: str | None = None
    num_bytes: Count | None = None
    mean_kl: Maybe = None
    max_kl: Maybe = None
    top1_agreement: Maybe = None
    num_renders: Count | None = None
    num_renders_equal: Count | None = None


class MetricsLine(Shape):
    """A step's or an evaluation's; what is not finite is written as null."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Maybe]
    step: Count


def refuse_odd(shape: type[Shape], content: Any, path: Path) -> None:
    """Compares a file's content with its shape.

    Args:
        shape: One of the above.
        content: What was read.
        path: Where from, for the message.

    Raises:
        RunFolderError: A value is missing or of another type.
    """
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])[:100]
        place = f"`{key}`" if key else "its content"
        raise RunFolderError(
            f"is damaged: {place}: {first['msg'][:100]}",
            where=str(path),
            hint="remove this file; the command that wrote it writes it again",
        ) from None


def is_metrics(line: Any) -> bool:
    """Whether a line of metrics.jsonl is one."""
    try:
        MetricsLine.model_validate(line)
    except ValidationError:
        return False
    return True
