"""Config file or run folder → problems, a trained run, figures, a merged model, exports, answers.

    load_config ─► check     every problem of config and chats
                └► train ─► evaluate | merge | export | chat

Each function does what the verb of its name does, writes what it writes, and returns what its
`--json` prints. Every error is a `LorawrightError` with an address and a hint.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorawright.errors import ConfigError
from lorawright.run.events import Tell, silent
from lorawright.types import ExportTarget, GgufType, Problem

if TYPE_CHECKING:
    from lorawright.config.schema import Config
    from lorawright.inference.generate import ChatModel
    from lorawright.training.train import Result, Start

Place = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
"""Told of what is done, how many of it, and of how many."""


def _no_progress(what: str, num_done: int, num_all: int) -> None:
    """Shows nothing."""


def load_config(path: Place, overrides: Mapping[str, object] | None = None) -> Config:
    """Reads one YAML config.

    Args:
        path: The file; relative paths in it start at its folder.
        overrides: Dotted key → value, as `{"training.epochs": 1}`; relative paths among them start
            at the current folder.

    Returns:
        The whole config, defaults included; `auto` is settled by `train`.

    Raises:
        ConfigProblems: With all errors of the file at once, each with its line.
    """
    from lorawright.config import load

    pairs = [f"{key}={json.dumps(_plain(value))}" for key, value in (overrides or {}).items()]
    return load(Path(path), pairs).config


def check(config: Config | Place) -> tuple[Problem, ...]:
    """Reads all chats and proves every loss mask; loads no torch.

    Args:
        config: As loaded, or its file.

    Returns:
        All findings, with file, line and severity; a run starts if none is an error.

    Raises:
        LorawrightError: Config, tokenizer or data cannot be read at all.
    """
    from lorawright.dataset import prepare

    loaded, _ = _loaded(config)
    return prepare.run(loaded).problems


def train(
    config: Config | Place,
    *,
    start: Start | str = "new",
    tell: Tell = silent,
) -> Result:
    """Fine-tunes once, in this process or in several that are started here.

    Args:
        config: As loaded, or its file.
        start: `new` refuses a folder that holds a run; `overwrite` begins anew; `resume` goes on
            from the newest complete checkpoint, exactly.
        tell: Called with every event of the run, see `lorawright.run.events`.

    Returns:
        Losses in nats a trained token, seconds, number of optimizer steps, the run folder.

    Raises:
        LorawrightError: With an address and a hint, whatever was wrong.
    """
    from lorawright.distributed.signals import quiet

    loaded, source = _loaded(config)
    quiet()
    from lorawright.training import train as stage

    return stage.run(loaded, start=stage.Start(start), tell=tell, source=source)


def evaluate(
    run: Place,
    *,
    data: Place | None = None,
    with_base: bool = True,
    num_samples: int = 32,
    max_new_tokens: int = 512,
    progress: Progress = _no_progress,
) -> dict[str, Any]:
    """Compares base and tuned model on chats that were not trained on.

    Args:
        run: The run folder, or what `train` returned.
        data: Other chats than the run's evaluation set.
        with_base: Measure the base model too.
        num_samples: Answers that are generated; 0: none.
        max_new_tokens: Longest answer in tokens; one that reaches it did not stop.
        progress: Told of chats and answers.

    Returns:
        The content of `evaluation.json`: under `base` and `tuned` the `loss` in nats a trained
        token, `perplexity`, `token_accuracy` from 0 to 1, scores of the answers; the answers
        themselves under `samples`.

    Raises:
        LorawrightError: No adapter, another base, no evaluation set, a bad row.
    """
    folder, config = _opened(run)
    from lorawright.evaluation import run as stage

    options = stage.Options(None if data is None else str(data), with_base, num_samples,
                            max_new_tokens)  # fmt: skip
    found = stage.run(folder, config, options, progress)
    _renew_report(folder.path)
    return found


def merge(
    run: Place,
    *,
    output: Place | None = None,
    data: Place | None = None,
    max_mean_kl: float | None = None,
    overwrite: bool = False,
    progress: Progress = _no_progress,
) -> dict[str, Any]:
    """Makes one model of adapter and base, and compares its predictions with theirs.

    Args:
        run: The run folder, or what `train` returned.
        output: The new folder; `merged` in the run folder by default.
        data: Other chats for the comparison than the run's evaluation set.
        max_mean_kl: Largest mean KL divergence in nats; by default what rounding explains.
        overwrite: Replace the model that is there.
        progress: Told of tensors and comparisons.

    Returns:
        The content of `merge.json`: `path`, `mean_kl` and `max_kl` in nats a position,
        `top1_agreement` from 0 to 1.

    Raises:
        LorawrightError: No adapter, another base, a folder that is taken, a full disk, or a merged
            model further from base + adapter than the bound.
    """
    folder, config = _opened(run)
    from lorawright.exporters import merge as stage

    options = stage.Options(
        None if output is None else Path(output), None if data is None else str(data), max_mean_kl,
        overwrite,
    )  # fmt: skip
    found = stage.run(folder, config, options, progress)
    _renew_report(folder.path)
    return found


def export(
    run: Place,
    to: ExportTarget | str,
    *,
    types: Sequence[GgufType | str] = (),
    adapter_only: bool = False,
    output: Place | None = None,
    data: Place | None = None,
    max_mean_kl: float | None = None,
    overwrite: bool = False,
    progress: Progress = _no_progress,
) -> dict[str, Any]:
    """Writes what llama.cpp, Ollama or vLLM load, and compares its predictions.

    Args:
        run: The run folder, or what `train` returned.
        to: `gguf`, `ollama` or `vllm`.
        types: How a GGUF file holds its weights; `f16` by default, for Ollama one, `q8_0`.
        adapter_only: A GGUF of the adapter alone, for whoever has the base as GGUF already.
        output: The new folder; in the run folder by default.
        data: Other chats for the comparison than the run's evaluation set.
        max_mean_kl: Largest mean KL divergence in nats; by default a bound of each type.
        overwrite: Replace the files that are there.
        progress: Told of tensors and comparisons.

    Returns:
        For GGUF the figures of `merge` by type; for an adapter alone how far its updates are from
        PEFT's; for Ollama and vLLM files, checks and commands.

    Raises:
        LorawrightError: As `merge`; also an architecture or a chat template that the program does
            not take.
    """
    target = ExportTarget(to)
    if adapter_only and target is not ExportTarget.GGUF:
        raise ConfigError(
            f"has no use with {target}", where="adapter_only", hint="name `gguf` as the target"
        )
    folder, config = _opened(run)
    from lorawright.exporters import gguf, gguf_lora, ollama, vllm

    where = None if output is None else Path(output)
    if adapter_only:
        found = gguf_lora.run(folder, config, where, overwrite=overwrite)
    elif target is ExportTarget.VLLM:
        found = vllm.run(folder, config)
    else:
        usual = GgufType.Q8_0 if target is ExportTarget.OLLAMA else GgufType.F16
        options = gguf.Options(
            types=tuple(map(GgufType, types)) or (usual,),
            output=where,
            data=None if data is None else str(data),
            max_mean_kl=max_mean_kl,
            overwrite=overwrite,
        )
        stage = ollama.run if target is ExportTarget.OLLAMA else gguf.run
        found = stage(folder, config, options, progress)
    _renew_report(folder.path)
    return found


def chat(run: Place) -> ChatModel:
    """Loads a run's adapter on its base, to answer.

    Args:
        run: The run folder, or what `train` returned.

    Returns:
        A model whose `answer(messages)` yields the pieces of an answer as they are generated;
        `answer(messages, base=True)` answers without the adapter.

    Raises:
        LorawrightError: The run has no adapter, or its base is gone or another.
    """
    folder, config = _opened(run)
    from lorawright.inference.generate import ChatModel

    return ChatModel.load(folder, config.model, config.template)


def _plain(value: object) -> object:
    """A value as JSON and YAML spell it: paths are texts."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _loaded(config: Config | Place) -> tuple[Config, Path | None]:
    """The config, and its file if it comes from one."""
    if isinstance(config, str | os.PathLike):
        return load_config(config), Path(config)
    return config, None


def _opened(run: Place) -> tuple[Any, Config]:
    """A run folder and its config; other libraries' messages are kept off the terminal."""
    from lorawright.distributed.signals import quiet
    from lorawright.run.folder import open_run, read_config

    folder, _ = open_run(os.fspath(run))
    config = read_config(folder)
    quiet()
    return folder, config


def _renew_report(run: Path) -> None:
    """Writes the run's page again; what was asked for is done where it cannot be."""
    from lorawright import report
    from lorawright.errors import LorawrightError

    try:
        report.write(run, report.own_language())
    except (LorawrightError, OSError) as error:
        warnings.warn(f"the report is as it was: {error}", stacklevel=3)
