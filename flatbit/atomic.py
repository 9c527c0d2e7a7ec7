"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write; on leaving, it takes the place of ``path`` at once. An error leaves ``path`` as it was.

    Whatever wrote it, the file has the permissions of the one that it replaces, or a new file's (the user's umask); a
    link stays one, and the file that it leads to is replaced.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        mode = _mode(path if path.exists() else partial)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """The permissions of a file, or those that a new one there gets."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    path.touch()
    try:
        return _mode(path)
    finally:
        path.unlink()
