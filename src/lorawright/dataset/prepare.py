"""config → rows → ids and masks, once: the data side of every verb.

    rows (data) ─► ids + spans (chat) ─► Arrow files, problems, statistics, certificate

The result is cached by content: data files, tokenizer, template, settings. A second `check`, `plan`
or `train` on the same input opens the files and tokenizes nothing.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lorawright import data, hub, masks
from lorawright.config.schema import Config
from lorawright.data import fingerprint
from lorawright.data.file_names import open_file
from lorawright.dataset import cache, pool
from lorawright.dataset.store import ChatStore, Writer
from lorawright.errors import DataError, LorawrightError, TemplateError
from lorawright.masks import remarks
from lorawright.types import EncodedChat, Kind, Problem, Severity, Split

MOST_WARNINGS = 10_000  # of a kind that are listed; all are counted. A million rows cost memory


@dataclass(frozen=True, slots=True)
class Prepared:
    """The chats of a run, ready to be trained on.

    Attributes:
        train: Chats of the training set.
        eval: Chats of the evaluation set, or None.
        problems: All findings, dropped and kept rows included.
        stats: Counts, for `check --json` and `data.json`.
        certificate: What was proven about the masks; `certificate.json`.
    """

    train: ChatStore
    eval: ChatStore | None
    problems: tuple[Problem, ...]
    stats: dict[str, Any]
    certificate: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies; another process can `reopen` it."""
        return self.train.path.parent

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest sequence of both sets."""
        stores = [self.train] if self.eval is None else [self.train, self.eval]
        return max(int(store.num_tokens_N.max()) for store in stores)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity is Severity.ERROR)

    @property
    def rejected(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity is Severity.DROPPED)


def run(
    config: Config,
    tokenizer: masks.ChatTokenizer | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Prepared:
    """Reads, encodes and proves all chats of a config, or opens what a run before has made.

    Args:
        config: The run.
        tokenizer: Its model's, where it is loaded already.
        progress: Called with the number of rows read so far.

    Raises:
        ModelError: The tokenizer cannot be found.
        TemplateError: The chat template is missing or cannot be proven.
        DataError: The data cannot be opened at all. Problems of rows are returned, not raised.
    """
    if tokenizer is None:
        folder = hub.tokenizer_folder(config.model.name, config.model.revision)
        tokenizer = masks.load(folder, config.model.name, config.template)
    encoder = masks.Encoder(tokenizer, config.data, _tags(config))
    contents = fingerprint.contents(config.data)
    cached = cache.folder_of(config, encoder, contents)
    if cached is None or contents is None:
        work = Path(tempfile.mkdtemp(prefix="lorawright-"))
        atexit.register(shutil.rmtree, work, ignore_errors=True)  # read until the process ends
        with cache.explained(work):
            return _build(config, encoder, work, progress)
    if not cache.is_complete(cached):
        cache.fill(cached, lambda work: _build_of(contents, config, encoder, work, progress))
    return reopen(cached)


def raise_errors(prepared: Prepared) -> None:
    """Raises the first error among the problems, naming how many there are."""
    errors = prepared.errors
    if not errors:
        return
    raise data.as_error(errors[0], num_more=len(errors) - 1)


def as_problem(error: LorawrightError) -> Problem:
    """An error that ended a check, in the shape of the others."""
    kind = Kind.TEMPLATE if isinstance(error, TemplateError) else Kind.FILE
    return Problem(error.where or "", None, "", error.what, error.hint or "", kind)


@dataclass
class _Findings:
    """What is counted while rows pass."""

    problems: list[Problem] = field(default_factory=list)
    num_by_severity: Counter[Severity] = field(default_factory=Counter)
    num_by_kind: Counter[Kind] = field(default_factory=Counter)
    first_tokens: Counter[int] = field(default_factory=Counter)
    last_tokens: Counter[int] = field(default_factory=Counter)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, problem: Problem) -> None:
        """Counts a problem and keeps it; of warnings of one kind only so many are kept."""
        self.num_by_severity[problem.severity] += 1
        self.num_by_kind[problem.kind] += 1
        harmless = problem.severity is Severity.WARNING
        if not harmless or self.num_by_kind[problem.kind] <= MOST_WARNINGS:
            self.problems.append(problem)

    def see(self, encoded: EncodedChat) -> None:
        for start, end in encoded.spans:
            self.first_tokens[encoded.ids[start]] += 1
            self.last_tokens[encoded.ids[end - 1]] += 1
        self.digest.update(array("i", encoded.ids).tobytes())
        self.digest.update(array("i", chain.from_iterable(encoded.spans)).tobytes())


def _build_of(
    contents: fingerprint.Contents,
    config: Config,
    encoder: masks.Encoder,
    work: Path,
    progress: Callable[[int], None] | None,
) -> None:
    """Builds what is kept under the name of these contents, and of no others."""
    _build(config, encoder, work, progress)
    changed = fingerprint.changed(contents, fingerprint.contents(config.data))
    if changed:
        raise DataError(
            "changed while it was read",
            where=changed[0],
            hint="wait until it is written, then begin again",
        )


def _build(
    config: Config, encoder: masks.Encoder, work: Path, progress: Callable[[int], None] | None
) -> Prepared:
    reader = data.Reader(config.data)
    findings = _Findings()
    unknown: list[Problem] = []
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(Writer(work / f"{split}.arrow")) for split in _splits(config)
        }
        for row in pool.encode(encoder, _counted(reader, progress)):
            if isinstance(row, Problem) and row.kind is Kind.UNKNOWN_KEY:
                unknown.append(row)
            elif isinstance(row, Problem):
                findings.add(row)
            else:
                findings.see(row)
                writers[row.split].append(row)
    stores = {split: ChatStore(work / f"{split}.arrow", split) for split in writers}
    for problem in [
        *_empty_sets(reader, stores, findings.problems),
        *remarks.of_keys(unknown, encoder.counts, config.model.name),
        *remarks.of_template(encoder, config.model.name),
    ]:
        findings.add(problem)
    summary = {
        "problems": [asdict(problem) for problem in findings.problems],
        "stats": _stats(stores, reader, findings),
        "certificate": _certificate(config, encoder, stores, findings),
    }
    (work / cache.COMPLETE).write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return reopen(work)


def _splits(config: Config) -> list[Split]:
    return [Split.TRAIN] if config.data.eval is None else [Split.TRAIN, Split.EVAL]


def _counted(rows: Iterable[Any], progress: Callable[[int], None] | None) -> Iterable[Any]:
    shown = 0.0
    for number, row in enumerate(rows, 1):
        if progress is not None and (number % 500 == 0 or time.monotonic() - shown > 0.1):
            progress(number)
            shown = time.monotonic()
        yield row


def _empty_sets(
    reader: data.Reader, stores: dict[Split, ChatStore], problems: list[Problem]
) -> list[Problem]:
    """A set that lost all its rows is an error of its own, unless errors explain it already."""
    return [
        reader.no_chat_left(split)
        for split, store in stores.items()
        if not len(store)
        and not any(p.severity is Severity.ERROR and p.split is split for p in problems)
    ]


def _stats(
    stores: dict[Split, ChatStore], reader: data.Reader, findings: _Findings
) -> dict[str, Any]:
    train, evaluation = stores[Split.TRAIN], stores.get(Split.EVAL)
    stats = _set_stats(train)
    stats["eval"] = None if evaluation is None else _set_stats(evaluation)
    stats["files"] = [
        {**asdict(found), "unused_keys": sorted(found.unused_keys)} for found in reader.found
    ]
    stats["num_problems"] = {
        str(severity): findings.num_by_severity[severity] for severity in Severity
    }
    stats["num_by_kind"] = {str(kind): num for kind, num in findings.num_by_kind.items()}
    return stats


def _set_stats(store: ChatStore) -> dict[str, Any]:
    tokens = store.num_tokens_N
    return {
        "num_chats": store.num_chats,
        "num_sequences": len(store),
        "num_tokens": int(tokens.sum()),
        "num_trained_tokens": int(store.num_trained_N.sum()),
        "max_tokens": int(tokens.max(initial=0)),
        "percentile_tokens": {
            str(p): int(np.percentile(tokens, p)) if len(store) else 0 for p in (5, 50, 95)
        },
    }


def _certificate(
    config: Config, encoder: masks.Encoder, stores: dict[Split, ChatStore], findings: _Findings
) -> dict[str, Any]:
    counts, tokenizer, markers = encoder.counts, encoder.tokenizer, encoder.markers

    def named(counter: Counter[int]) -> dict[str, int]:
        return {tokenizer.decode([token]): num for token, num in counter.most_common(10)}

    return {
        "num_rows": counts.num_rows,
        "num_sequences": counts.num_sequences,
        "num_trained_tokens": sum(int(s.num_trained_N.sum()) for s in stores.values()),
        "num_spans": counts.num_spans,
        "train_on": str(encoder.settings.train_on),
        "header": markers.header,
        "turn_end": markers.end,
        "first_tokens": named(findings.first_tokens),
        "last_tokens": named(findings.last_tokens),
        "agreed": {
            "by_text_and_ids": counts.num_agreed_text_ids,
            "by_generation_tags": counts.num_agreed_tags if encoder.tags else None,
        },
        "generation_tags_problem": counts.tags_problem,
        "num_answers_kept_apart_from_header": counts.num_kept_apart,
        "num_swallowed": counts.num_swallowed,
        "not_rendered": dict(sorted(counts.idle_keys.items())),
        "new_stop_token": tokenizer.decode([markers.end_id]) if markers.is_new_stop else None,
        "stop_tokens": [tokenizer.decode([token]) for token in sorted(tokenizer.stop_ids)],
        "template_date": tokenizer.template_date,
        "template_variables": dict(config.template.variables),
        "train_reasoning": encoder.settings.train_reasoning,
        "template_sha256": tokenizer.template_sha256,
        "tokenizer_sha256": tokenizer.tokenizer_sha256,
        "data_sha256": findings.digest.hexdigest(),
    }


def reopen(folder: Path) -> Prepared:
    """What `run` has made, in this process or another."""
    summary = orjson.loads((folder / cache.COMPLETE).read_bytes())
    problems = tuple(
        Problem(
            **{
                **item,
                "kind": Kind(item["kind"]),
                "severity": Severity(item["severity"]),
                "split": Split(item["split"]),
            }
        )
        for item in summary["problems"]
    )
    evaluation = folder / f"{Split.EVAL}.arrow"
    return Prepared(
        train=ChatStore(folder / f"{Split.TRAIN}.arrow", Split.TRAIN),
        eval=ChatStore(evaluation, Split.EVAL) if evaluation.is_file() else None,
        problems=problems,
        stats=summary["stats"],
        certificate=summary["certificate"],
    )


def _tags(config: Config) -> tuple[str, str] | None:
    path = config.template.generation_tags
    if path is None:
        return None
    try:
        with open_file(Path(path)) as file:
            source = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise TemplateError(
            f"cannot be read: {why}", where=path, hint="see `template.generation_tags`"
        ) from None
    if "generation" not in source:
        raise TemplateError(
            "has no {% generation %} tags",
            where=path,
            hint="put them around the answer and its end token",
        )
    return source, path
