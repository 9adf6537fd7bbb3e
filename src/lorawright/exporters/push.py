"""A finished run → its adapter on the hub: weights, settings, tokenizer, template and card.

No checkpoint, no row of data, no path of this machine: files are taken from a list, and a base
that is a local folder must be named as a hub id first.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined] # HTTPError is not listed
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of whichever HTTP client the hub's library uses
    LocalTokenNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # nor this

from lorawright import hub
from lorawright.errors import ConfigError, LorawrightError, RunFolderError
from lorawright.run import card, lock
from lorawright.run import facts as run_facts
from lorawright.run.facts import RunFacts, State
from lorawright.run.folder import RunFolder
from lorawright.run.names import LOCK

FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was, or would be, uploaded: names and sizes in bytes; `url` None for a dry run."""

    repo: str
    files: dict[str, int]
    url: str | None


def push(
    run: str | Path, repo: str, *, base: str | None = None, private: bool, dry_run: bool
) -> Pushed:
    """Uploads a finished run's adapter.

    Args:
        run: Its folder.
        repo: OWNER/NAME on the hub; made if it is not there.
        base: Hub id of the base, where the run names a local folder.
        private: Make a new repository private.
        dry_run: Say what would go, and stop.

    Raises:
        ConfigError: The repository's name is wrong, or the base has no name on the hub.
        RunFolderError: The run has no adapter, or another process writes into it.
        ModelError: A file of the adapter has changed since it was written.
        LorawrightError: The hub refuses, or cannot be reached.
    """
    _check_name(repo, "REPO")
    facts = run_facts.read(run)
    lock.refuse_if_held(facts.path, LOCK)
    if facts.state is not State.FINISHED:
        raise RunFolderError(
            "has no finished adapter",
            where=str(run),
            hint="`lorawright train CONFIG --resume` finishes it",
        )
    RunFolder(facts.path).finished_adapter()
    named = _base(facts, base)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        _stage(facts, folder, named)
        lock.refuse_if_held(facts.path, LOCK)  # else the files may be of two runs
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        url = None if dry_run else _upload(folder, repo, private)
    return Pushed(repo, files, url)


def _check_name(repo: str, where: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        what = str(error).split("\n")[0][:200]
        raise ConfigError(f"is not a hub id: {what}", where=where, hint="OWNER/NAME") from None


def _base(facts: RunFacts, given: str | None) -> str:
    if given is not None:
        _check_name(given, "--base-model")
        return given
    name = str(facts.config["model"]["name"])
    found = hub.model_id(name)
    if found is None:
        raise ConfigError(
            f"was trained on the local folder {name}, which nobody else has",
            where=str(facts.path),
            hint="name the base on the hub: `--base-model OWNER/NAME`",
        )
    return found


def _stage(facts: RunFacts, folder: Path, base: str) -> None:
    """The files that go, in a folder of their own."""
    source = facts.path / "adapter"
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    card.write(folder, facts, base)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _upload(folder: Path, repo: str, private: bool) -> str:
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Adapter and card"
        )
    except LocalTokenNotFoundError:
        raise LorawrightError(
            "the hub wants to know who you are, and there is no token",
            where=repo,
            hint="`hf auth login`, or set HF_TOKEN to a token that may write",
        ) from None
    except HfHubHTTPError as error:
        raise LorawrightError(
            f"the hub refuses: {str(error).strip().splitlines()[0][:200]}",
            where=repo,
            hint="is the token allowed to write there? `hf auth whoami`",
        ) from None
    except (HTTPError, OSError) as error:
        raise LorawrightError(
            f"the hub cannot be reached: {str(error).strip().splitlines()[0][:200]}",
            where=repo,
            hint="see HF_ENDPOINT and HF_HUB_OFFLINE; `--dry-run` needs no network",
        ) from None
    return str(done.commit_url)
