"""Whether a run worked: base and tuned model on chats that were not trained on.

    figures = evaluate.run(RunFolder(path), config, Options())

Loss by role and length, answers beside their references, and whether the model stops. The base is
measured first, then wrapped with the adapter: one model in memory, and the base stays what it was
also where the adapter changes biases. Everything goes into the run's `evaluation.json`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorawright import hardware, hub, masks
from lorawright.config.schema import Config
from lorawright.evaluate import chats as eval_chats
from lorawright.evaluate import harness
from lorawright.evaluate.compare import Judge, Progress
from lorawright.hardware import Device
from lorawright.inference import generate
from lorawright.model import load
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
    adapter = generate.adapter_folder(folder)
    base_folder = hub.model_folder(
        config.model.name, config.model.revision, with_code=config.model.trust_remote_code
    )
    generate.refuse_other_base(folder, config.model.name, base_folder)
    found = _measure(config, base_folder, adapter, options, progress)
    if options.lm_eval is not None:
        output = folder.path / "lm-eval"
        device = hardware.detect().device
        harness.run(base_folder, adapter, options.lm_eval, output, device.value)
        found["lm_eval"] = {"tasks": options.lm_eval, "path": str(output)}
    found["seconds"] = time.perf_counter() - started
    failures.write_result(folder, RESULT, found)
    return found


def _measure(
    config: Config, base_folder: Path, adapter: Path, options: Options, progress: Progress
) -> dict[str, Any]:
    chats = eval_chats.load(config, options.data)
    facts = hardware.detect()
    settings = generate.with_dtype(config.model, facts)
    base = load.load_base(settings, base_folder, facts.device, training=False).eval()
    judge = Judge(
        chats=chats,
        asked=eval_chats.spread(eval_chats.questions(chats), options.num_samples),
        tokenizer=masks.load(base_folder, config.model.name),
        end_ids=generate.end_tokens(base_folder, config.model.name, base),
        max_new_tokens=options.max_new_tokens,
        tokens_per_pass=USUAL_TOKENS_PER_PASS[Device(facts.device)],
        progress=progress,
    )
    before = judge.measure(base, "base") if options.with_base else None
    after = judge.measure(generate.with_adapter(base, adapter, config.model.name).eval(), "tuned")
    return {
        "data": {
            "name": options.data or str(config.data.eval),
            "num_chats": len(chats),
            "num_tokens": sum(len(one.encoded.ids) for one in chats),
            "num_trained_tokens": sum(one.encoded.num_trained_tokens for one in chats),
        },
        "adapter": str(adapter),
        "dtype": str(settings.dtype),
        "max_new_tokens": options.max_new_tokens,
        **judge.compare(before, after),
        "lm_eval": None,
    }
