"""The run folder: what is in it, and when it may be written to.

config.yaml        what was run, resolved      metrics.jsonl   a line a logged step
environment.json   versions, hardware          checkpoints/    complete or absent
certificate.json   what was proven             adapter/        PEFT layout, tokenizer, template
data.json          counts                      tensorboard/    curves
rejected.jsonl     rows left out, with why      report.html    all of it, for the eye
plan.json, rows.json, result.json               what the report needs besides
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from lorawright import checkpoint
from lorawright.config import paths
from lorawright.config.schema import Config
from lorawright.errors import RunFolderError
from lorawright.hardware import Hardware
from lorawright.types import Problem

REPORTED_PACKAGES = (
    "lorawright", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers",
    "deepspeed", "bitsandbytes", "numpy", "pyarrow",
)  # fmt: skip

MOST_NAMED = 5  # runs in a hint


HEADER = """\
# This run as it was resolved. `output: .` is the folder of this file; data, and a model that lies
# in a folder, have their whole paths: the run can be moved, and be named from any folder.
# If the data was moved: `lorawright evaluate RUN --data FILE`; to go on: `--set data.train=FILE`.
"""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run, and how its files are written."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def certificate(self) -> Path:
        return self.path / "certificate.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def holds_a_run(self) -> bool:
        return any(p.exists() for p in (self.config, self.checkpoints, self.adapter, self.metrics))

    def refuse_if_taken(self) -> None:
        """Raises RunFolderError if something would be overwritten."""
        if self.path.is_file():
            raise RunFolderError(
                "is a file, expected a folder or nothing",
                where=str(self.path),
                hint="choose another `training.output`",
            )
        if self.holds_a_run():
            raise RunFolderError(
                "holds a run already",
                where=str(self.path),
                hint="go on with it: `--resume`; begin anew: `--overwrite`; or choose another "
                "`training.output`",
            )

    def clear(self) -> None:
        """Removes a run, and only if this is one."""
        if self.holds_a_run():
            shutil.rmtree(self.path)

    def write_facts(
        self,
        config: Config,
        reasons: dict[str, str],
        hardware: Hardware,
        stats: dict[str, Any],
        certificate: dict[str, Any],
        rejected: Iterable[Problem],
        base_weights: str,
    ) -> None:
        """Everything that is known before the first step; `base_weights`: the base's digest."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"cannot be written: {error.strerror}",
                where=str(self.path),
                hint="choose another `training.output`",
            ) from None
        own = HEADER + dump_config(paths.self_contained(config, self.path), reasons)
        checkpoint.write_atomically(self.config, own.encode())
        self.write_json(
            self.environment.name, {**environment(hardware), "base_weights_sha256": base_weights}
        )
        self.write_json(self.certificate.name, certificate)
        self.write_json("data.json", stats)
        lines = b"".join(orjson.dumps(asdict(problem)) + b"\n" for problem in rejected)
        checkpoint.write_atomically(self.path / "rejected.jsonl", lines)

    def base_weights(self) -> str | None:
        """Digest of the base the run was trained on; None if it was not noted."""
        if not self.environment.is_file():
            return None
        found = orjson.loads(self.environment.read_bytes()).get("base_weights_sha256")
        return None if found is None else str(found)

    def append_metrics(self, line: dict[str, Any]) -> None:
        with open(self.metrics, "ab") as file:
            file.write(orjson.dumps(line) + b"\n")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Lines written so far; a last line cut short by a kill is passed over."""
        if not self.metrics.is_file():
            return
        for raw in self.metrics.read_bytes().split(b"\n"):
            try:
                yield orjson.loads(raw)
            except orjson.JSONDecodeError:
                continue

    def rewind_metrics(self, step: int) -> None:
        """Keeps the lines up to a step, so that a resumed run writes each step once."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        content = b"".join(orjson.dumps(line) + b"\n" for line in kept)
        checkpoint.write_atomically(self.metrics, content)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """A file of the run, whole or not at all."""
        text = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        checkpoint.write_atomically(self.path / name, text)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A file of the run; None if it is not there."""
        path = self.path / name
        return orjson.loads(path.read_bytes()) if path.is_file() else None


def open_run(path: str | Path) -> tuple[RunFolder, dict[str, Any]]:
    """A finished or unfinished run and its config as plain data.

    Raises:
        RunFolderError: There is no run.
    """
    folder = RunFolder(Path(path))
    if not str(path):
        raise RunFolderError(
            "is empty", where="RUN", hint="name the `training.output` of a run, `.` for this folder"
        )
    if not folder.path.is_dir():
        what = "is a file, expected the folder of a run" if folder.path.exists() else "no such run"
        raise RunFolderError(what, where=str(path), hint=_hint_for_runs(folder.path.parent))
    if not folder.config.is_file():
        raise RunFolderError(
            "holds no run: config.yaml is missing",
            where=str(path),
            hint=_hint_for_runs(folder.path),
        )
    return folder, yaml.safe_load(folder.config.read_text(encoding="utf-8"))


def _hint_for_runs(folder: Path) -> str:
    """Names the runs inside a folder."""
    try:
        found = sorted(str(path.parent) for path in folder.glob("*/environment.json"))
    except OSError:
        found = []
    if not found:
        return "name the `training.output` of a run"
    named = ", ".join(f"`{path}`" for path in found[:MOST_NAMED])
    more = len(found) - MOST_NAMED
    return f"did you mean {named} or {more} more?" if more > 0 else f"did you mean {named}?"


def read_config(folder: RunFolder) -> Config:
    """The run's config, checked again.

    Raises:
        RunFolderError: It was edited, or written by another version.
    """
    try:
        found = Config.model_validate(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise RunFolderError(
            f"is not the config of a run: {str(error).splitlines()[0][:160]}",
            where=str(folder.config),
            hint="it was edited, or another version of lorawright wrote it",
        ) from None
    # runs of 0.1.0 have paths of the folder that `train` was started in
    return paths.anchored(found, folder.path) if found.training.output == paths.OWN else found


def dump_config(config: Config, reasons: dict[str, str]) -> str:
    """The config as YAML, derived values with their reason behind them.

    training:
      optimizer: adamw_torch_fused  # derived: paged 8-bit Adam is for CUDA
    """
    lines: list[str] = []
    for section, values in config.model_dump(mode="json").items():
        lines.append(f"{section}:")
        for name, value in values.items():
            text = yaml.safe_dump(
                {name: value}, allow_unicode=True, default_flow_style=True, width=10_000
            )
            reason = reasons.get(f"{section}.{name}")
            comment = f"  # derived: {reason}" if reason else ""
            lines.append(f"  {text.strip()[1:-1]}{comment}")
    return "\n".join(lines) + "\n"


def environment(hardware: Hardware) -> dict[str, Any]:
    """Versions and hardware; no user names, no addresses."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": installed_versions(),
        "hardware": asdict(hardware),
        "num_cpus": os.cpu_count(),
    }


def installed_versions() -> dict[str, str | None]:
    """Version of each package that decides a run; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
