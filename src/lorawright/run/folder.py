"""A path → the run folder: names of its files, when it may be written to and removed.

lorawright.json    says that this is a run     lock.json       while it is trained
config.yaml        what was run, resolved      metrics.jsonl   a line a logged step
environment.json   versions, hardware          checkpoints/    complete or absent
certificate.json   what was proven             adapter/        PEFT layout, tokenizer, template
data.json          counts                      tensorboard/    curves
rejected.jsonl     rows left out, with why      report.html    all of it, for the eye
plan.json, rows.json, result.json               what the report needs besides
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from lorawright.config import other_tools, paths
from lorawright.config.schema import Config
from lorawright.errors import ModelError, RunFolderError
from lorawright.hardware import Hardware
from lorawright.run import checkpoint, names, owned, shapes
from lorawright.run.environment import environment
from lorawright.run.owned import Kind, Marker
from lorawright.types import Problem

BASE_WEIGHTS = "base_weights_sample_sha256"  # see `hub.weights_digest`
MOST_NAMED = 5  # runs in a hint
REWRITE_HINT = (
    "put the file back from a copy, or write the adapter again from the last checkpoint: "
    "`lorawright train CONFIG --resume`"
)


HEADER = """\
# This run as it was resolved. `output: .` is the folder of this file; data, and a model that lies
# in a folder, have their whole paths: the run can be moved, and be named from any folder.
# If the data was moved: `lorawright evaluate RUN --data FILE`; to go on: `--set data.train=FILE`.
"""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run, and how its files are written."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

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
        """By our marker; of a version before it, by what that wrote before the first step."""
        marker = owned.read(self.path)
        if marker is not None:
            return marker.kind is Kind.RUN
        return self.certificate.is_file() and _names_us(self.environment)

    def refuse_if_taken(self) -> None:
        """Raises RunFolderError if something would be overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(
                "is a file, expected a folder or nothing",
                where=str(self.path),
                hint="choose another `training.output`",
            )
        if self.holds_a_run():
            if not self._has_begun():
                return
            raise RunFolderError(
                "holds a run already",
                where=str(self.path),
                hint="go on with it: `--resume`; begin anew: `--overwrite`; or choose another "
                "`training.output`",
            )
        found = names.taken(self.path)
        if found is not None:
            raise RunFolderError(
                f"holds {found.name}, which a run would write over, and is no run",
                where=str(self.path),
                hint="choose another `training.output`",
            )

    def _has_begun(self) -> bool:
        """Whether more is there than what a launcher writes."""
        written = (self.config, self.adapter, self.metrics)
        return any(path.exists() for path in written) or any(self.checkpoints.glob("*"))

    def refuse_if_not_clearable(self) -> None:
        """Raises RunFolderError if `clear` would not leave room for a new run."""
        if not self.holds_a_run():
            self.refuse_if_taken()
        linked = names.linked(self.path)
        if linked is not None:
            raise RunFolderError(
                "is a link, and what a run writes there would be written elsewhere",
                where=str(linked),
                hint="take the link away, or choose another `training.output`",
            )

    def clear(self) -> list[str]:
        """Removes a run's files, if this is one, and says what stays: names that are not ours."""
        if not self.holds_a_run():
            return []
        try:
            if owned.read(self.path) is None:  # of an earlier version; a kill may come between
                owned.mark(self.path, Marker(Kind.RUN))
            owned.remove(self.path, names.own_files(self.path))
        except OSError as error:
            raise RunFolderError(
                f"cannot be removed: {error.strerror}",
                where=str(error.filename or self.path),
                hint="see to its permissions, or choose another `training.output`",
            ) from None
        return names.remaining(self.path)

    def begin(self) -> None:
        """Makes the folder and marks it as a run: before anything of a run is in it.

        Raises:
            RunFolderError: It cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if owned.read(self.path) is None:
                owned.mark(self.path, Marker(Kind.RUN))
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"cannot be written: {error.strerror}",
                where=str(self.path),
                hint="choose another `training.output`",
            ) from None

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
        self.begin()
        own = HEADER + dump_config(paths.self_contained(config, self.path), reasons)
        checkpoint.write_atomically(self.config, own.encode())
        self.write_json(
            self.environment.name, {**environment(hardware), BASE_WEIGHTS: base_weights}
        )
        self.write_json(self.certificate.name, certificate)
        self.write_json("data.json", stats)
        lines = b"".join(orjson.dumps(asdict(problem)) + b"\n" for problem in rejected)
        checkpoint.write_atomically(self.path / "rejected.jsonl", lines)

    def base_weights(self) -> str | None:
        """Digest of the base the run was trained on; None if it was not noted."""
        noted = read_object(self.environment) or {}
        found = noted.get(BASE_WEIGHTS, noted.get("base_weights_sha256"))  # before 0.2
        return None if found is None else str(found)

    def finished_adapter(self) -> Path | None:
        """The adapter, its files as they were written; None: there is none yet.

        One of an earlier version, which noted no digests, is taken as it is.

        Raises:
            ModelError: A file is missing or has changed, or the marker is damaged.
        """
        marker = owned.read(self.adapter)
        if marker is None and os.path.lexists(self.adapter / owned.MARKER):
            raise ModelError(
                "is damaged, so that the adapter's files cannot be verified",
                where=str(self.adapter / owned.MARKER),
                hint=REWRITE_HINT,
            )
        noted = marker is not None and bool(marker.sha256)
        if not noted and not (self.adapter / "adapter_config.json").is_file():
            return None
        owned.verify(self.adapter, REWRITE_HINT)
        return self.adapter

    def append_metrics(self, line: dict[str, Any]) -> None:
        with open(self.metrics, "ab") as file:
            file.write(orjson.dumps(line) + b"\n")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Lines written so far; one cut short by a kill, or damaged, is passed over."""
        if not self.metrics.is_file():
            return
        for raw in self.metrics.read_bytes().split(b"\n"):
            try:
                line = orjson.loads(raw)
            except orjson.JSONDecodeError:
                continue
            if shapes.is_metrics(line):
                yield line

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
        """A file of the run; None if it is not there.

        Raises:
            RunFolderError: It is damaged.
        """
        return read_object(self.path / name)


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file.

    Raises:
        RunFolderError: It is damaged, or cannot be read.
    """
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise damaged(path, f"is not valid JSON: {error}") from None
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None
    if not isinstance(found, dict):
        raise damaged(path, f"holds a {type(found).__name__}, expected an object")
    return found


def damaged(path: Path, what: str) -> RunFolderError:
    """An error about a file of a run that is not needed to go on with it."""
    return RunFolderError(
        what, where=str(path), hint="remove this file; the command that wrote it writes it again"
    )


def _names_us(environment: Path) -> bool:
    """Whether an environment.json is one that lorawright wrote."""
    try:
        packages = orjson.loads(environment.read_bytes())["packages"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return isinstance(packages, dict) and "lorawright" in packages


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
    if not folder.holds_a_run():  # a project's config, say: nothing is written beside it
        raise RunFolderError("holds no run", where=str(path), hint=_hint_for_runs(folder.path))
    found = _read_yaml(folder.config)
    sections = list(found.values()) if isinstance(found, dict) else []
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise _no_config(folder.config, "it names no model")
    if not all(isinstance(section, dict) for section in sections):
        raise _no_config(folder.config, "a section holds no keys")
    return folder, dict(found)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes().decode())
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        # odd dates are ValueErrors, and so is what is not UTF-8
        raise _no_config(path, str(error)) from None


def _no_config(path: Path, why: str) -> RunFolderError:
    return RunFolderError(
        f"is not the config of a run: {why.splitlines()[0][:160]}",
        where=str(path),
        hint="it was edited, or another version of lorawright wrote it",
    )


def _hint_for_runs(folder: Path) -> str:
    """Names the runs inside a folder, or inside its `runs`."""
    try:
        found = sorted(
            str(path.parent)
            for name in ("*/environment.json", "runs/*/environment.json")
            for path in folder.glob(name)
        )
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
    values = _read_yaml(folder.config)
    for section, key in other_tools.GONE:
        if isinstance(values, dict) and isinstance(values.get(section), dict):
            values[section].pop(key, None)
    try:
        found = Config.model_validate(values)
    except ValidationError as error:
        raise _no_config(folder.config, str(error)) from None
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
