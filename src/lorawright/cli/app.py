"""Arguments → exit code: the application of all verbs, its language and its last errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from lorawright import hardware
from lorawright.cli import streams
from lorawright.cli.chat import chat
from lorawright.cli.check import check
from lorawright.cli.doctor import doctor
from lorawright.cli.eject import eject
from lorawright.cli.evaluate import evaluate
from lorawright.cli.export import export
from lorawright.cli.help import Command, Group, UsageError, as_error
from lorawright.cli.init import init
from lorawright.cli.inspect import inspect
from lorawright.cli.launch_script import launch_script
from lorawright.cli.merge import merge
from lorawright.cli.plan import plan
from lorawright.cli.push import push
from lorawright.cli.quickstart import quickstart
from lorawright.cli.recipes import recipes
from lorawright.cli.report import report
from lorawright.cli.train import train
from lorawright.errors import ConfigError, LorawrightError
from lorawright.i18n import catalogue

TRACEBACK = "--traceback"
LANGUAGE = "--lang"

app = typer.Typer(
    name="lorawright",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="LoRA fine-tuning of chat models that you can check.",
    epilog="Exit codes: 0 fine; 1 the data, the check or the run failed; 2 the config or the "
    "command line is wrong. Errors show a Python traceback with --traceback. "
    "`--lang en` or `--lang zh` chooses the language; else LORAWRIGHT_LANG, else the terminal's.",
)
VERBS = (
    quickstart,
    init,
    recipes,
    check,
    inspect,
    plan,
    train,
    launch_script,
    evaluate,
    merge,
    export,
    chat,
    report,
    push,
    eject,
    doctor,
)
for verb in VERBS:
    short = (verb.__doc__ or "").split("\n")[0]  # wrapped, never cut
    app.command(cls=Command, short_help=short)(verb)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from lorawright import __version__

        sys.stdout.write(f"lorawright {__version__}\n")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns its exit code."""
    with_traceback = TRACEBACK in arguments
    rest = [argument for argument in arguments if argument != TRACEBACK]
    try:
        rest, language = _take_language(rest)
    except ConfigError as error:
        return _print(error)
    with _speaking(language):
        return _run(rest, with_traceback)


def _take_language(arguments: list[str]) -> tuple[list[str], catalogue.Language]:
    """The arguments without `--lang`, wherever it stands, and the language they are answered in."""
    name, where, rest, left = (
        os.environ.get(catalogue.SWITCH),
        catalogue.SWITCH,
        [],
        iter(arguments),
    )
    for argument in left:
        option, equals, value = argument.partition("=")
        if option != LANGUAGE:
            rest.append(argument)
            continue
        name, where = value if equals else next(left, ""), LANGUAGE
    if not name and where == catalogue.SWITCH:
        return rest, catalogue.language()
    return rest, catalogue.parse_language(name or "", where)


@contextmanager
def _speaking(language: catalogue.Language) -> Iterator[None]:
    """Sets the language for this process and those it starts."""
    before = os.environ.get(catalogue.SWITCH)
    os.environ[catalogue.SWITCH] = language
    try:
        yield
    finally:
        if before is None:
            del os.environ[catalogue.SWITCH]
        else:
            os.environ[catalogue.SWITCH] = before


def _run(arguments: list[str], with_traceback: bool) -> int:
    try:
        streams.refuse_gone_folder()
        code = app(arguments, prog_name="lorawright", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except LorawrightError as error:
        if with_traceback:
            raise
        return _print(error)
    except UsageError as fault:
        if not arguments:  # what it says then is the help
            sys.stderr.write(f"{as_error(fault).what}\n")
            return 2
        return _print(as_error(fault))
    except KeyboardInterrupt:
        from lorawright.cli import console

        console.err().print("stopped by SIGINT")
        return 130
    except typer.Abort:
        return 1
    except BrokenPipeError as error:
        if streams.flush(0) == streams.READER_GONE:
            return streams.READER_GONE
        return _print(_unexpected(error))
    except Exception as error:  # the outermost edge: whatever a library raises, one line
        if with_traceback:
            raise
        return _print(_unexpected(error))
    return int(code or 0)


def _print(error: LorawrightError) -> int:
    from lorawright.cli import console
    from lorawright.config.load import ConfigProblems

    if isinstance(error, ConfigProblems):
        console.print_problems(error.problems)
    else:
        console.print_error(error)
    return error.exit_code


def _unexpected(error: Exception) -> LorawrightError:
    line = str(error).strip().split("\n")[0][:300]
    return LorawrightError(
        f"unexpected {type(error).__name__}: {line}",
        hint="this is a fault of lorawright or of a library below it; --traceback shows where",
    )


def main() -> None:
    """The `lorawright` command."""
    arguments = sys.argv[1:]
    hardware.set_short_spin(os.environ)
    streams.prepare()
    sys.exit(streams.flush(run(arguments)))
