"""The command line: one verb per file of ``verbs``, the same manners everywhere.

Progress goes to standard error, one result to standard output (``--json`` for machines). Exit status 0;
2 for the caller's mistake, with one line that names it and its mend; 1 for anything else.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from ..engine.loop import TrainingError
from ..export.verification import ExportError
from ..plugins import load_installed
from ..progress import be_quiet
from ..quant.proof import QuantizationError
from ..registry import Registry
from ..version import VERSION
from .console import say
from .plugins import DEBUG, load_plugins, plugins_of
from .spelling import check_spelling
from .wording import UsageError, usage_in_words

INTERRUPTED = 130  # what typer makes of Ctrl-C, without a word
PLUGIN = "a Python file of yours (or a folder of them) that registers a recipe, loss, schedule, quantizer, verb ..."
COMMANDS: Registry[Callable[..., None] | typer.Typer] = Registry("command", f"{__name__}.verbs")
"""By name: a function, or a Typer of several."""


def app() -> typer.Typer:
    """The application with every verb that is registered."""
    application = typer.Typer(
        help="Neural networks of 1 to 8 bits: train, quantize, prove, cost. Begin with: flatbit quickstart",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    application.callback()(_everywhere)
    for name in COMMANDS.names():
        verb, epilog = COMMANDS.get(name), f"Every verb takes `--quiet`, and `--plugin FILE`: {PLUGIN}"
        if isinstance(verb, typer.Typer):
            application.add_typer(verb, name=name, epilog=epilog)
        else:
            application.command(name, epilog=epilog)(verb)
    return application


def _version(asked: bool) -> None:
    if asked:
        print(f"flatbit {VERSION}")
        raise typer.Exit


def _everywhere(
    plugin: Annotated[list[str], typer.Option(help=f"Before or after any verb: {PLUGIN}")] = [],  # noqa: B006
    quiet: Annotated[bool, typer.Option("--quiet", help="With any verb: no progress, only results.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before the verb; plug-ins are loaded already, for one may hold the verb."""


def main() -> None:
    """Run the command line; the console script."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"flatbit: {message}")
        _run()


def _run() -> None:
    """Run the verb, and end with its status."""
    words: list[str] = []
    try:
        plugins, words = plugins_of(sys.argv[1:])
        words = _heard(words)
        for line in load_installed():
            say(line)
        load_plugins(plugins)
        check_spelling(words)
        status = app()(words or ["--help"], standalone_mode=False)
    except UsageError as error:
        _stop(usage_in_words(error, words), 2)
    except ValueError as error:
        _stop(error, 2)
    except (QuantizationError, TrainingError, ExportError, ImportError, OSError) as error:
        _stop(error, 1)
    except (TypeError, RuntimeError, SyntaxError) as error:  # out of code of the user's, or of torch's: where it arose
        if os.environ.get(DEBUG):
            raise
        _stop(f"{type(error).__name__}: {error} ({DEBUG}=1 shows where it arose)", 1)
    if status == INTERRUPTED:
        _stop("interrupted; a run goes on with --resume", INTERRUPTED)
    raise SystemExit(status if isinstance(status, int) else 0)


def _heard(words: Sequence[str]) -> list[str]:
    """The words without ``--quiet``, which may stand anywhere."""
    be_quiet("--quiet" in words)
    return [word for word in words if word != "--quiet"]


def _stop(message: object, status: int) -> NoReturn:
    print(f"flatbit: {message}", file=sys.stderr)
    raise SystemExit(status)
