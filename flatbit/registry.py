"""Name to object: one registry per plug-in folder, filled by scanning its files."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are closest to ``name``, or list them all, for an error's last words."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


class Registry(Generic[T]):
    """Objects of one kind by name; the files of ``package`` fill it when it is first asked.

    A file registers what it holds by calling ``add`` when it is imported. Nothing lists the files:
    dropping one into the folder is enough.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._objects: dict[str, T] = {}
        self._scanned = False

    def add(self, name: str, thing: T) -> T:
        """Register ``thing`` under ``name``. Raises ValueError if the name is taken."""
        if name in self._objects:
            raise ValueError(f"{self.kind} {name!r} is registered twice: rename one of the two")
        self._objects[name] = thing
        return thing

    def get(self, name: str) -> T:
        """Return what is registered under ``name``. Raises ValueError naming the nearest names."""
        self._scan()
        if name not in self._objects:
            raise ValueError(f"unknown {self.kind} {name!r}: {nearest(name, self._objects)}")
        return self._objects[name]

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._scan()
        return sorted(self._objects)

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        folder = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(folder.__path__):
            importlib.import_module(f"{self.package}.{module.name}")


def import_object(path: str) -> Any:
    """Import what ``package.module:name`` names, looking in the working directory too. Raises ValueError."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{path!r}: expected package.module:name")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f"; a file mynet.py is mynet:{name}" if ".py" in path else ""
        raise ValueError(
            f"{path!r}: no module {error.name!r} here or installed (looked in {here} too){hint}"
        ) from error
    finally:
        sys.path.remove(here)
    if not hasattr(module, name):
        raise ValueError(f"{path!r}: module {module_name!r} has no {name!r}: {nearest(name, vars(module))}")
    return getattr(module, name)
