"""Writes tests/assets/golden.json: the losses that the golden run must give.

Run it only for a change of numerics, and give the reason in the commit.
    python tools/golden.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from conftest import make_config  # noqa: E402 # the tests' folders come first

from lorawright.run.environment import installed_versions  # noqa: E402
from lorawright.training import train  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make = make_config.__wrapped__(Path(folder))
        config = make(num_rows=20, epochs=3, dropout=0.05)
        run = train.run(config).folder
        losses = [line["loss"] for line in run.read_metrics()]
    content = {
        "config": config.model_dump(
            mode="json", exclude={"data": {"train"}, "training": {"output"}}
        ),
        "packages": installed_versions(),
        "loss": losses,
    }
    path = ROOT / "tests" / "assets" / "golden.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(path, losses)


if __name__ == "__main__":
    main()
