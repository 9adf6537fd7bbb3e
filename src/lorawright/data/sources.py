"""What `data.train` and `data.eval` may name → files, or a set on the hub.

Example:
    find_sources("data/train", Split.TRAIN)   # [DataFile(path, name), ...]
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorawright import hub
from lorawright.data.file_names import display_name, printable
from lorawright.data.problems import clip
from lorawright.errors import DataError
from lorawright.types import DATA_EXTENSIONS, Split

EXTENSIONS = DATA_EXTENSIONS
EXPECTED = ", ".join(EXTENSIONS)
NOT_DATA = {
    "readme.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
}
EVAL_SPLITS = ("test", "validation", "eval")
HUB_PAGE = re.compile(r"https?://(?:www\.)?huggingface\.co/datasets/([\w.-]+/[\w.-]+)")
HUB_TIMEOUT_SECONDS = 5
URL = re.compile(r"(?!hf://)[A-Za-z][A-Za-z0-9+.-]+://")
UNPACK = {
    ".gz": "gunzip",
    ".zip": "unzip",
    ".zst": "unzstd",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".tar": "tar xf",
    ".tgz": "tar xf",
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows; `name` is how problems call it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class HubSet:
    """A data set on the hub; `split` None: the one that fits its use here."""

    id: str
    config: str | None
    split: str | None
    use: Split

    @property
    def name(self) -> str:
        return f"hf://{self.id}" + (f"/{self.config}" if self.config else "")


def find_sources(source: str, use: Split) -> list[DataFile | HubSet]:
    """The files of a source in reading order.

    Raises:
        DataError: nothing is there, nothing in it is data, or it cannot be looked into.
    """
    try:
        return _find(source, use)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}",
            where=printable(source),
            hint="check its name and its permissions",
        ) from None


def _find(source: str, use: Split) -> list[DataFile | HubSet]:
    path = Path(source)
    if URL.match(source):
        raise _on_the_net(source)
    if not source.startswith("hf://") and (path.exists() or path.is_symlink()):
        if path.is_dir():
            return [DataFile(file, display_name(file)) for file in _files_in(path, use)]
        if path.suffix.lower() not in EXTENSIONS:
            raise _not_data(path)
        return [DataFile(path, display_name(path))]
    hub_set = _as_hub_set(source, use)
    if hub_set is None:
        hint = _hint_for_missing(path)
        raise DataError("no such file or folder", where=printable(source), hint=hint)
    return [hub_set]


def _on_the_net(source: str) -> DataError:
    match = HUB_PAGE.match(source)
    hint = f"write `hf://{match[1]}`" if match else "download it first, and name the file"
    what = "is an address on the net, expected a file, a folder or a set on the hub"
    return DataError(what, where=printable(source), hint=hint)


def _not_data(path: Path) -> DataError:
    suffix = path.suffix.lower()
    if suffix in UNPACK:
        return DataError("is packed", where=display_name(path), hint=unpack_hint(path))
    return DataError(
        f"ends in `{clip(path.suffix)}`, expected one of: {EXPECTED}"
        if suffix
        else f"has no extension, expected one of: {EXPECTED}",
        where=display_name(path),
        hint="rename it after what it holds, or convert it to jsonl",
    )


def unpack_hint(path: Path) -> str:
    return f"unpack it: `{UNPACK[path.suffix.lower()]} {display_name(path)}`"


def _files_in(folder: Path, use: Split) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        folder = _split_folder(folder, use)
    files: list[Path] = []
    others: list[str] = []
    visited: set[str] = set()  # a link may lead back up
    for parent, folders, file_names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in file_names:
            if _is_data(name) or _is_packed_data(name, file_names):
                files.append(Path(parent, name))
            else:
                others.append(name)
    if not files:
        shown = [clip(printable(name)) for name in sorted(others)[:3]]
        there = f" (it holds {', '.join(shown)})" if shown else " (empty)"
        raise DataError(
            f"is a folder without data files{there}",
            where=display_name(folder),
            hint=f"files must end in one of: {EXPECTED}",
        )
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _refuse(error: OSError) -> None:
    where = display_name(Path(error.filename))
    raise DataError(f"cannot be read: {error.strerror}", where=where, hint="check its permissions")


def _is_data(name: str) -> bool:
    """`cache-*.arrow` is what `datasets` leaves behind in a saved set: old copies of the rows."""
    lower = name.lower()
    if name.startswith(".") or lower in NOT_DATA or lower.startswith("readme."):
        return False
    if lower.startswith("cache-") and lower.endswith(".arrow"):
        return False
    return lower.endswith(EXTENSIONS)


def _is_packed_data(name: str, beside: list[str]) -> bool:
    """`x.jsonl.gz`, unless it stands beside what came out of it; reading it says what to do."""
    stem, extension = os.path.splitext(name)
    return extension.lower() in UNPACK and _is_data(stem) and stem not in beside


def _split_folder(folder: Path, use: Split) -> Path:
    """A saved `DatasetDict` has a folder a split; reading them all would mix train and test."""
    wanted = ("train",) if use is Split.TRAIN else EVAL_SPLITS
    for name in wanted:
        if (folder / name).is_dir():
            return folder / name
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    raise DataError(
        f"has no split for {use}: it holds {', '.join(map(printable, there)) or 'none'}",
        where=display_name(folder),
        hint=f"name the split's folder itself; expected one of: {', '.join(wanted)}",
    )


def _as_hub_set(source: str, use: Split) -> HubSet | None:
    """A bare `org/name` is a hub id unless a local folder `org` says that a path was meant."""
    match = hub.match_set(source)
    is_bare = not source.startswith(hub.HUB)
    if match is None or (is_bare and Path(Path(source).parts[0]).is_dir()):
        return None
    return HubSet(match["id"], match["config"], match["split"], use)


def _hint_for_missing(path: Path) -> str:
    folder, missing = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, missing = folder.parent, folder.name
    if not folder.is_dir():
        return "hub ids are written `hf://org/name`"
    siblings = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(missing, siblings, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{display_name(folder / near[0])}`?"
    return f"`{display_name(folder)}` holds no such name; hub ids are written `hf://org/name`"


def read_hub(hub_set: HubSet, batch_rows: int) -> tuple[str, Iterator[Any]]:
    """Loads a hub set; returns its name with the split, and its rows as Arrow tables.

    Raises:
        DataError: the hub is out of reach, or has no such set or split.
    """
    from datasets import config as datasets_config

    if os.path.lexists(hub_set.id):
        raise DataError(
            f"is no path beside the config, and as a hub id `{hub_set.id}` is a folder here, which "
            "`datasets` would read instead",
            where=hub_set.name,
            hint="write the folder's whole path, or start the command in another folder",
        )
    if not datasets_config.HF_HUB_OFFLINE:
        _require_hub(hub_set, datasets_config.HF_ENDPOINT)
    split, dataset = load_split(hub_set)
    return f"{hub_set.name}:{split}", dataset.with_format("arrow").iter(batch_rows)


def load_split(hub_set: HubSet) -> tuple[str, Any]:
    """`datasets.load_dataset` (`id` may be a folder), with the errors of a user, one line each.

    Returns:
        The split and its `Dataset`.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    path, config, split, name = hub_set.id, hub_set.config, hub_set.split, hub_set.name
    try:
        if split is None:
            there = datasets.get_dataset_split_names(path, config)
            split = _choose_split(there, hub_set.use, name)
        return split, datasets.load_dataset(path, config, split=split)
    except DatasetNotFoundError:
        raise DataError(
            "no such data set on the hub, and no local file or folder of that name",
            where=name,
            hint="check the spelling; a private set needs `hf auth login`",
        ) from None
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        first_line = str(error).strip().partition("\n")[0][:200]
        raise DataError(
            f"cannot be loaded: {first_line}",
            where=name,
            hint="write `hf://org/name:split` or `hf://org/name/config:split`; "
            "a local folder works as well",
        ) from None


def _choose_split(there: list[str], use: Split, name: str) -> str:
    wanted = ("train",) if use is Split.TRAIN else EVAL_SPLITS
    for split in wanted:
        if split in there:
            return split
    raise DataError(
        f"has no split for {use}: it holds {', '.join(there)}",
        where=name,
        hint=f"name one: `{name}:{there[0]}`",
    )


def _require_hub(hub_set: HubSet, endpoint: str) -> None:
    """One quick try: `datasets` itself retries for 23 seconds before it says so (measured, 5.2)."""
    request = urllib.request.Request(f"{endpoint}/datasets/{hub_set.id}", method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers; what it has is for `datasets` to find out
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # a certificate of one's own: `datasets` may know it where urllib does not
        raise DataError(
            f"is no local file or folder, and the hub at {endpoint} cannot be reached ({reason})",
            where=hub_set.name,
            hint="HF_ENDPOINT can name a mirror, HF_HUB_OFFLINE=1 uses what was downloaded before; "
            "any local folder works as well",
        ) from None
