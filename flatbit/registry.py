"""Name to object: one registry per plug-in folder, filled by scanning its files."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")
PLUGIN_HINT = "(what a file of yours registers is known once it is imported: --plugin FILE on the command line)"


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are closest to ``name``, or list them all, for an error's last words."""
    known = sorted(known)
    scores = {other: _closeness(str(name), other) for other in known}
    ranked = sorted(known, key=lambda other: (scores[other], other), reverse=True)
    close = [other for other in ranked if scores[other][0] >= 0.5][:3]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def _closeness(name: str, other: str) -> tuple[float, float]:
    """How alike two names are, 0 to 1; a name that is a part of another between dots (``fc.weight``) is close to it."""
    ratio = difflib.SequenceMatcher(None, other, name).ratio()
    dotted = [f".{word}.".lower() for word in (name, other)]
    return max(ratio, 0.75 * (dotted[0] in dotted[1] or dotted[1] in dotted[0])), ratio


class Registry(Generic[T]):
    """Objects of one kind by name; the files of ``package`` fill it when it is first asked.

    A file registers what it holds by calling ``add`` when it is imported. Nothing lists the files:
    dropping one into the folder is enough. ``package`` may also be one module. Where a file cannot be
    imported every call raises what it raised, until it is mended.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._objects: dict[str, T] = {}
        self._unfinished: set[str] = set()
        self._sources: dict[str, str] = {}
        self._scanned = False
        _registries.add(self)

    def add(self, name: str, thing: T) -> T:
        """Register ``thing`` under ``name``; what is defined in the same place anew, as in a notebook, replaces it.

        Raises ValueError if the name is taken.
        """
        taken = name in self._objects and name not in self._unfinished
        if taken and not _same_place(self._objects[name], thing):
            raise ValueError(f"{self.kind} {name!r} is registered twice: rename one of the two")
        self._unfinished.discard(name)
        self._objects[name] = thing
        if _sources and _sources[-1] is not None:
            self._sources.setdefault(name, _sources[-1])
        return thing

    def get(self, name: str) -> T:
        """Return what is registered under ``name``. Raises ValueError naming the nearest names."""
        self._scan()
        if name not in self._objects:
            raise ValueError(f"unknown {self.kind} {name!r}: {nearest(name, self._objects)} {PLUGIN_HINT}")
        return self._objects[name]

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._scan()
        return sorted(self._objects)

    def name_of(self, thing: object) -> str | None:
        """The name under which this very object is registered, the first of several; None where it is not."""
        return next((name for name, known in self._objects.items() if known is thing), None)

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        try:
            with importing(None):
                folder = importlib.import_module(self.package)
                for module in pkgutil.iter_modules(getattr(folder, "__path__", ())):
                    importlib.import_module(f"{self.package}.{module.name}")
        except BaseException:
            self._scanned = False
            raise


def _same_place(one: Any, other: Any) -> bool:
    """Whether two things are one definition, read twice: a class or function by its path, a dataclass by its parts."""
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        parts = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)]
        found = [_same_place(*pair) for pair in parts]
        return any(found) and all(same or a == b for same, (a, b) in zip(found, parts, strict=True))
    paths = [(getattr(x, "__module__", ""), getattr(x, "__qualname__", "")) for x in (one, other)]
    return bool(paths[0][1]) and "<" not in paths[0][1] and paths[0] == paths[1]


_registries: WeakSet[Registry[Any]] = WeakSet()


_sources: list[str | None] = []


@contextmanager
def importing(source: str | None) -> Iterator[None]:
    """What is registered within is of ``source``, None for this package's own; may be again where the import fails."""
    before = {registry: registry._objects.keys() - registry._unfinished for registry in _registries}
    _sources.append(source)
    try:
        yield
    except BaseException:
        for registry in _registries:
            registry._unfinished |= registry._objects.keys() - before.get(registry, set())
        raise
    finally:
        _sources.pop()


def registered_by(source: str) -> dict[str, set[str]]:
    """The names that a source registered, by kind."""
    found: dict[str, set[str]] = {}
    for registry in _registries:
        if names := {name for name, its in registry._sources.items() if its == source}:
            found.setdefault(registry.kind, set()).update(names)
    return found


def is_registered(kind: str, name: str) -> bool:
    """Whether a registry of this kind holds the name."""
    return any(registry.kind == kind and name in registry.names() for registry in [*_registries])


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
