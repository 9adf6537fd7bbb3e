"""A run and chats that it was not trained on → losses, answers and scores of base and tuned model.

    figures = run(RunFolder(path), config, Options())

Loss by role and length, answers beside their references, and whether the model stops. The base is
measured first, then wrapped with the adapter: one model in memory, and the base stays what it was
also where the adapter changes biases. Everything goes into the run's `evaluation.json`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from lorawright import masks
from lorawright.config.schema import Config
from lorawright.evaluation import chats as eval_chats
from lorawright.evaluation import harness
from lorawright.evaluation.compare import Comparison, Progress
from lorawright.model import tuned
from lorawright.model.tuned import TunedFiles
from lorawright.plan.settings import USUAL_TOKENS_PER_PASS
from lorawright.run.folder import RunFolder
from lorawright.training import failures

RESULT = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Attributes:
        data: Other chats than the run's evaluation set.
        with_base: Measure the base too.
        num_samples: Answers that are generated, spread evenly over the set; 0: none.
        max_new_tokens: Longest answer; one that reaches it did not stop.
        lm_eval: Tasks for lm-evaluation-harness.
    """

    data: str | None = None
    with_base: bool = True
    num_samples: int = 32
    max_new_tokens: int = 512
    lm_eval: str | None = None


def run(
    folder: RunFolder,
    config: Config,
    options: Options | None = None,
    progress: Progress = lambda what, num_done, num_all: None,
) -> dict[str, Any]:
    """Measures a run and writes `evaluation.json`.

    Args:
        folder: The run.
        config: Its config.
        options: What is measured.
        progress: Told of chats and answers.

    Returns:
        What was written.

    Raises:
        LorawrightError: No adapter, another base, no evaluation set, a bad row, no harness.
    """
    with failures.results_into(folder, "evaluate"):
        return _run(folder, config, options or Options(), progress)


def _run(folder: RunFolder, config: Config, options: Options, progress: Progress) -> dict[str, Any]:
    if options.lm_eval is not None:
        harness.refuse_if_missing()
    started = time.perf_counter()
    files = tuned.find(folder, config.model)
    found = _measure(config, files, options, progress)
    if options.lm_eval is not None:
        output = folder.path / "lm-eval"
        harness.run(files.base, files.adapter, options.lm_eval, output, files.device.value)
        found["lm_eval"] = {"tasks": options.lm_eval, "path": str(output)}
    found["seconds"] = time.perf_counter() - started
    failures.write_result(folder, RESULT, found)
    return found


def _measure(
    config: Config, files: TunedFiles, options: Options, progress: Progress
) -> dict[str, Any]:
    chats = eval_chats.load(config, options.data)
    base = files.load_base()
    tokenizer = masks.load(files.base, config.model.name, config.template)
    comparison = Comparison(
        chats=chats,
        questions=eval_chats.spread(eval_chats.questions(chats), options.num_samples),
        tokenizer=tokenizer,
        end_ids=tuned.end_tokens(tokenizer, base),
        max_new_tokens=options.max_new_tokens,
        tokens_per_pass=USUAL_TOKENS_PER_PASS[files.device],
        progress=progress,
    )
    before = comparison.measure(base, "base") if options.with_base else None
    after = comparison.measure(files.add_adapter(base), "tuned")
    return {
        "data": {
            "name": options.data or str(config.data.eval),
            "num_chats": len({one.number for one in chats}),
            "num_sequences": len(chats),
            "num_tokens": sum(len(one.encoded.ids) for one in chats),
            "num_trained_tokens": sum(one.encoded.num_trained_tokens for one in chats),
        },
        "adapter": str(files.adapter),
        "dtype": str(files.settings.dtype),
        "max_new_tokens": options.max_new_tokens,
        **comparison.compare(before, after),
        "lm_eval": None,
    }
