"""Plug-ins: files of the user's, and installed packages, that register things; loaded only when they are asked for.

A run's record holds the path and SHA-256 of each, and which of its names the run needs (``flatbit.engine.record``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from .registry import importing, is_registered, registered_by

GROUP = "flatbit.plugins"
"""Entry points of packages that hold plug-ins: ``[project.entry-points."flatbit.plugins"]``, ``NAME = "module"``."""
MODULE = "module"
"""The kind of a plug-in's name that is the module itself, of which a record names something as ``module:Class``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A plug-in as a record holds it.

    Attributes:
        name: the module's.
        file: its path.
        sha256: of the file.
        package: name and version of the distribution that it came with; None for a file that was given.
        needed: what a run takes from it, names by kind: ``{"model": ("mine",)}``.
    """

    name: str
    file: str
    sha256: str
    package: str | None = None
    needed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """What is needed of it and not known here, in words."""
        kinds = [(kind, name) for kind, names in self.needed.items() for name in names]
        return [f"{kind} {name!r}" for kind, name in kinds if not _is_known(kind, name)]


_loaded: dict[str, Plugin] = {}


def load_plugin(path: str | Path) -> ModuleType:
    """Import a Python file of the user's under its stem: ``import_object("mine:name")`` finds what ``mine.py`` holds.

    Its folder joins the end of the module path, so that it can import its neighbours. A file that was loaded before is
    not run again: the same module comes back.

    Raises:
        ValueError: no such file, one that is not called NAME.py, a name that another module has.
        Exception: whatever the file itself raises.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py":
        raise ValueError(f"{path}: expected a Python file, NAME.py")
    if not file.is_file():
        raise ValueError(f"{path}: no such file")
    if (place := _place_of(file.stem)) not in (None, str(file)):
        raise ValueError(f"{path}: another module is called {file.stem!r} ({place}): rename the file")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    if file.stem not in sys.modules:
        _execute(file)
    _loaded[file.stem] = Plugin(name=file.stem, file=str(file), sha256=_sha256(file))
    return sys.modules[file.stem]


def load_installed() -> list[str]:
    """Import what installed packages name as plug-ins; a line for each that cannot be, which is left out."""
    said = []
    for point in metadata.entry_points(group=GROUP):
        package = "a package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        try:
            with importing(point.module):
                module = importlib.import_module(point.module)
        except Exception as error:
            said.append(f"plug-in {point.name} of {package} was left out: {type(error).__name__}: {error}")
            continue
        file = Path(module.__file__ or "")
        _loaded[point.module] = Plugin(name=point.module, file=str(file), sha256=_sha256(file), package=package)
    return said


def plugins_behind(values: Any) -> tuple[Plugin, ...]:
    """The plug-ins of this process, each with what it registered of the names in some plain values.

    A file is there whether or not it has some, for it was given; a package where it has.
    """
    words = set(_texts(values))
    found = []
    for plugin in _loaded.values():
        needed = {kind: sorted(names & words) for kind, names in sorted(registered_by(plugin.name).items())}
        needed[MODULE] = [plugin.name] * any(word.startswith(f"{plugin.name}:") for word in words)
        needed = {kind: tuple(names) for kind, names in needed.items() if names}
        if needed or plugin.package is None:
            found.append(replace(plugin, needed=needed))
    return tuple(found)


def check_plugins(plugins: Iterable[Plugin]) -> None:
    """Raise ValueError where what a record needs of plug-ins is not known here; none is imported on its word."""
    lacking = [(plugin, missing) for plugin in plugins if (missing := plugin.missing())]
    if lacking:
        needs = ", ".join(name for _, missing in lacking for name in missing)
        files = "".join(f" --plugin {plugin.file}" for plugin, _ in lacking if plugin.package is None)
        packages = "".join(f" {plugin.package}" for plugin, _ in lacking if plugin.package is not None)
        mends = " and ".join(f"{verb}{what}" for verb, what in (("give", files), ("install", packages)) if what)
        raise ValueError(f"needs {needs} of a plug-in that is not loaded: if you trust it, {mends}")


def changed_since(plugins: Iterable[Plugin]) -> list[str]:
    """A line for each plug-in that is loaded here with other contents than a record's."""
    kept: dict[str, set[str]] = {}
    for plugin in plugins:
        kept.setdefault(plugin.name, set()).add(plugin.sha256)
    return [
        f"plug-in {mine.file} has changed since: SHA-256 {mine.sha256[:12]}, then {' or '.join(h[:12] for h in known)}"
        for name, known in kept.items()
        if (mine := _loaded.get(name)) is not None and mine.sha256 not in known
    ]


def _execute(file: Path) -> None:
    """Run a file as a new module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    try:
        with importing(file.stem):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _is_known(kind: str, name: str) -> bool:
    if kind != MODULE:
        return is_registered(kind, name)
    return _place_of(name) is not None or Path(f"{name}.py").is_file()  # the working directory, as import_object


def _place_of(name: str) -> str | None:
    """The file of the module of this name, loaded or not, or what it is instead; None where there is no module."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its package is missing; a module without a spec, as __main__
        spec = None
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).resolve()) if spec.has_location else spec.origin
    return "loaded already" if name in sys.modules else None


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
