"""A settled run on disk: what a launcher hands to the processes it starts.

They read chats, settings and resume point from here; none of them tokenizes, decides or looks at
all data again. On several machines each has its own; `shared` is what must be equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from lorawright.config.schema import Config
from lorawright.hardware import Device, Hardware
from lorawright.plan.estimate import Memory
from lorawright.plan.settings import Resolved
from lorawright.run import checkpoint


@dataclass(frozen=True, slots=True)
class Job:
    """One machine's share of a run.

    Attributes:
        resolved: Config without `auto`, its reasons, the machine.
        prepared: Folder of the encoded chats.
        model_folder: The base's tokenizer and config.
        base_folder: The base with its weights.
        identity: What the run is, for its checkpoints.
        resume_from: The checkpoint to go on from, or None.
        control: Folder where processes and launcher talk, once there are any.
        launcher_pid: The launcher's; processes end with it. None: nobody to follow.
        resume_command: What goes on with the run after a stop; None if a program has started it.
    """

    resolved: Resolved
    prepared: Path
    model_folder: Path
    base_folder: Path
    identity: dict[str, Any]
    resume_from: Path | None
    control: Path | None = None
    launcher_pid: int | None = None
    resume_command: list[str] | None = None

    @property
    def shared(self) -> dict[str, Any]:
        """What every process of every machine must have alike."""
        config = self.resolved.config.model_dump(mode="json")
        config["distributed"] = config["distributed"] | {"machine_rank": 0}
        return {"config": config, "identity": self.identity}

    def write(self, path: Path) -> None:
        resolved = self.resolved
        checkpoint.write_atomically(
            path,
            orjson.dumps(
                {
                    "config": resolved.config.model_dump(mode="json"),
                    "reasons": resolved.reasons,
                    "memory": None if resolved.memory is None else asdict(resolved.memory),
                    "hardware": asdict(resolved.hardware),
                    "prepared": str(self.prepared),
                    "model_folder": str(self.model_folder),
                    "base_folder": str(self.base_folder),
                    "identity": self.identity,
                    "resume_from": None if self.resume_from is None else str(self.resume_from),
                    "control": None if self.control is None else str(self.control),
                    "launcher_pid": self.launcher_pid,
                    "resume_command": self.resume_command,
                },
                option=orjson.OPT_INDENT_2,
            ),
        )

    @staticmethod
    def read(path: Path) -> Job:
        found = orjson.loads(path.read_bytes())
        hardware = {**found["hardware"], "device": Device(found["hardware"]["device"])}
        resume_from = found["resume_from"]
        return Job(
            resolved=Resolved(
                Config.model_validate(found["config"]),
                found["reasons"],
                None if found["memory"] is None else Memory(**found["memory"]),
                Hardware(**hardware),
            ),
            prepared=Path(found["prepared"]),
            model_folder=Path(found["model_folder"]),
            base_folder=Path(found["base_folder"]),
            identity=found["identity"],
            resume_from=None if resume_from is None else Path(resume_from),
            control=None if found["control"] is None else Path(found["control"]),
            launcher_pid=found["launcher_pid"],
            resume_command=found["resume_command"],
        )
