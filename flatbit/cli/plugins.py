"""Plug-ins: files of the user's, loaded before the application is built, for one may hold a verb."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ..plugins import load_plugin

DEBUG = "FLATBIT_DEBUG"


def plugins_of(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files and folders of ``--plugin``, wherever they stand, and the other words.

    Raises ValueError for one without a file.
    """
    plugins, rest = [], []
    stream = iter(words)
    for word in stream:
        option, equals, attached = word.partition("=")
        if option != "--plugin":
            rest.append(word)
            continue
        plugin = attached if equals else next(stream, "")
        if not plugin:
            raise ValueError("--plugin: expected a Python file behind it, or a folder of them")
        plugins.append(plugin)
    return plugins, rest


def load_plugins(plugins: Sequence[str]) -> None:
    """Load each file, and each file of a folder. Raises ValueError for one that cannot be, or a folder without any."""
    for plugin in map(Path, plugins):
        files = sorted(plugin.glob("*.py")) if plugin.is_dir() else [plugin]
        if not files:
            raise ValueError(f"--plugin {plugin}: the folder holds no Python file")
        for file in files:
            try:
                loaded(file)
            except ValueError as error:
                raise ValueError(f"--plugin {error}") from error


def loaded(file: Path) -> ModuleType:
    """The module of a file of the user's. Raises ValueError that says in which line it fails, and of what."""
    try:
        return load_plugin(file)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        if (line := _line_in(file, error)) is None:  # what load_plugin itself refuses
            raise
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        words = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
        raise ValueError(f"{file}, line {line}: {words} ({DEBUG}=1 shows where it arose)") from error


def _line_in(file: Path, error: Exception) -> int | None:
    """The line of the file in which an error arose; None where it arose elsewhere."""
    name = str(file.expanduser().resolve())
    if isinstance(error, SyntaxError) and error.filename == name:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return lines[-1] if lines else None
