"""Build wheel and sdist, look at what they hold, install both into empty environments, run them.

    python tools/check_release.py             contents, then `quickstart` from each, unconstrained
    python tools/check_release.py --contents  contents only; needs no network

Needs `build` and `hatchling`, which `pip install -e '.[dev]'` brings. torch is installed first, by
the version of constraints.txt, so that a machine without a GPU can bring a build without CUDA.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "src/lorawright"
PACKAGE = ROOT / SOURCE
GENERATED = {"__pycache__"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contents", action="store_true", help="do not install and run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel, sdist = build(work / "dist")
        faults = [*wheel_faults(wheel), *sdist_faults(sdist)]
        for fault in faults:
            print(fault)
        if faults:
            return 1
        print(f"{wheel.name} and {sdist.name}: contents as expected")
        if not arguments.contents:
            for archive in (wheel, sdist):
                run(archive, work / archive.name.replace(".", "-"))
    return 0


def build(folder: Path) -> tuple[Path, Path]:
    """Wheel and sdist, without an environment of their own: nothing is fetched."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def wheel_faults(wheel: Path) -> list[str]:
    """The package's files, all of them, and the metadata; nothing else."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and not GENERATED & set(path.parts)
    }
    missing = [f"{wheel.name}: {name} is missing" for name in sorted(expected - names)]
    return missing + [f"{wheel.name}: {name} is extra" for name in sorted(names - expected)]


def sdist_faults(sdist: Path) -> list[str]:
    """What builds and tests the package stands in it."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "src/lorawright/py.typed",
        "tests/conftest.py",
    )
    faults = [f"{sdist.name}: {name} is missing" for name in needed if name not in names]
    strange = [name for name in names if {".venv", *GENERATED, "runs"} & set(Path(name).parts)]
    return faults + [f"{sdist.name}: {name} is extra" for name in sorted(strange)]


def run(archive: Path, folder: Path) -> None:
    """Installs into an empty environment by the bounds of pyproject.toml, and runs `quickstart`."""
    venv.create(folder / "venv", with_pip=True)
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in constraints if line.startswith("torch=="))
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, str(archive)], check=True)
    command = [str(folder / "venv/bin/lorawright"), "quickstart"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    learned = next(line for line in done.stdout.splitlines() if line.startswith("it learned"))
    print(f"{archive.name}: {learned}")


if __name__ == "__main__":
    sys.exit(main())
