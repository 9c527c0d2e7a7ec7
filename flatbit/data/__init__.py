"""Data sets by name: ``load("digits")``. One file per set; the folder is scanned."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..registry import Registry, import_object, nearest
from .batches import Data
from .form import About
from .user import user_data

__all__ = ["DATASETS", "About", "Data", "load", "user_data"]

ROOT = "the folder that holds its files: root=, on the command line --data-dir DIR"
DATASETS: Registry[Callable[..., Data]] = Registry("data set", f"{__name__}.sets")


def load(
    name: str,
    root: str | Path | None = None,
    *,
    channels: int | None = None,
    workers: int | None = None,
    **arguments: Any,
) -> Data:
    """Load a data set by name.

    Args:
        name: from ``flatbit list data``, or ``package.module:function`` for a function of yours that
            returns a ``Data``.
        root: the folder that holds its files, for sets that have files.
        channels: repeat grey images to so many, for a network that takes three.
        workers: processes that read a set which is read as it is needed; 0 reads in this one. By default as
            the set has it: one per core, for those of files.
        arguments: what else the set takes.

    Raises:
        ValueError: an unknown name or argument, or one that is missing; a root for a set without files;
            files that are missing, and how to get them.
    """
    loader = import_object(name) if ":" in name else DATASETS.get(name)
    known = inspect.signature(loader).parameters
    if root is not None and "root" not in known:
        raise ValueError(f"data set {name!r} has no files: root= (--data-dir) cannot act: leave it out")
    if root is not None:
        arguments["root"] = root
    if workers is not None and "workers" in known:  # a function of the user's that does it itself
        arguments["workers"], workers = workers, None
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"data set {name!r} has no argument {argument!r}: {nearest(argument, known)}")
    try:
        inspect.signature(loader).bind(**arguments)
    except TypeError as error:
        hint = f" ({ROOT})" if "'root'" in str(error) else ""
        raise ValueError(f"data set {name!r}: {error}{hint}") from None
    data = loader(**arguments)
    if not isinstance(data, Data):
        raise ValueError(f"{name!r} returned {type(data).__name__}: expected a flatbit.data.Data")
    data = data if workers is None else data.with_workers(workers)
    return data if channels is None else data.with_channels(channels)
