"""An output path → refused where something else than a run of ours stands."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lorawright.config.schema import Config
from lorawright.errors import ConfigError
from lorawright.run import owned

KEY = "training.output"
PAGE_SIGNS = (b'<meta name="generator" content="lorawright">', "· lorawright</title>".encode())
HEAD_BYTES = 4096  # of a page, which begins with its signs


def refuse_unsafe(config: Config, source: Path | None) -> None:
    """Raises ConfigError for a `training.output` that is no folder of the run's own.

    Args:
        config: As loaded.
        source: Its file, if it comes from one.
    """
    output = Path(config.training.output)
    owned.refuse_places(output, KEY, kept_places(config, source))
    for where, folder in _data(config):
        if folder.is_dir() and folder.resolve() in output.resolve().parents:
            raise ConfigError(
                f"is `{output}`, in the folder that `{where}` reads chats from",
                where=KEY,
                hint="a run's own files would be read as chats; name a folder beside it",
            )


def refuse_foreign_page(path: Path, option: str) -> None:
    """Raises ConfigError if a file stands there that is no page of ours.

    Args:
        path: A page to be written.
        option: What names it.
    """
    if not path.is_file():
        return  # a folder is what writing itself complains of
    with suppress(OSError):
        with open(path, "rb") as file:
            start = file.read(HEAD_BYTES)
        if any(sign in start for sign in PAGE_SIGNS):
            return
    raise ConfigError(
        f"`{path}` is there, and is not a page that lorawright wrote",
        where=option,
        hint="name another file, or move this one away",
    )


def kept_places(config: Config, source: Path | None = None) -> list[tuple[str, Path]]:
    """What must neither be an output nor lie in one, each with what it is."""
    found = owned.usual_places()
    if source is not None:
        found.append(("the config's folder", source.absolute().parent))
    found += [(f"the chats of `{where}`", path) for where, path in _data(config)]
    model = Path(config.model.name).expanduser()
    return [*found, ("the base model", model)] if model.exists() else found


def _data(config: Config) -> list[tuple[str, Path]]:
    named = {"data.train": config.data.train, "data.eval": config.data.eval}
    found = []
    for key, value in named.items():
        if isinstance(value, str) and Path(value).expanduser().exists():
            found.append((key, Path(value).expanduser()))
    return found
