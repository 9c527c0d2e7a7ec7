"""Finding a data set's files, and saying how to get them where they are not."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOWNLOAD = "pip install torchvision"


def find_folder(name: str, root: str | Path, layouts: Mapping[str, Sequence[str]], how: str) -> tuple[str, Path]:
    """The first folder under root that holds all of a layout's files, and the layout's folder name.

    Args:
        name: of the data set, for the error.
        root: where the user says the files are: the folder itself or the one it was unpacked in.
        layouts: usual folder name to the files in it; ``a|b`` stands for one of the two.
        how: how to get the files, in a sentence.

    Raises:
        ValueError: files are missing; it names them and where it looked.
    """
    root = Path(root).expanduser()
    lines = []
    for layout, files in layouts.items():
        for folder in dict.fromkeys((root / layout, root)):
            missing = [file for file in files if not any((folder / part).exists() for part in file.split("|"))]
            if not missing:
                return layout, folder
            present = "is not there" if not folder.is_dir() else f"has no {_listed(missing)}"
            lines.append(f"  {folder} {present}")
    raise ValueError(f"data set {name!r} is not in {root}:\n" + "\n".join(dict.fromkeys(lines)) + f"\nTo get it: {how}")


def one_of(folder: Path, file: str) -> Path:
    """The first of ``a|b`` that is in a folder."""
    return next(folder / part for part in file.split("|") if (folder / part).exists())


def decoded(content: bytes, path: Path) -> str:
    """A file's bytes as text. Raises ValueError naming the file where they are not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} holds no UTF-8 text ({error}): it is damaged or another file; get it again"
        ) from error


def download(name: str, root: str | Path, how: str, **arguments: Any) -> None:
    """Have torchvision download a set into root. Raises ValueError where it is not installed, or fails."""
    try:
        sets = importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"download=True needs torchvision ({error}): {DOWNLOAD}, or {how}") from error
    try:
        getattr(sets, name)(str(root), download=True, **arguments)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"torchvision could not download {name} into {root} ({error}): {how}") from error


def _listed(files: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(file.replace("|", " or ") for file in files[:most])
    return shown + (f" and {len(files) - most} more" if len(files) > most else "")
