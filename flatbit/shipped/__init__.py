"""Small trained nets that come with the package, as packed files: for examples and first tries.

Beside each stands what it scored, under which convention, and the command that trained it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..files import load
from ..registry import nearest

FOLDER = Path(__file__).parent


def trained_names() -> list[str]:
    """The nets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def trained(name: str) -> nn.Module:
    """A trained net by name, for inference: its grids are fixed. Raises ValueError for one that is not there."""
    return load(_file(name, ".safetensors"))


def trained_record(name: str) -> dict[str, Any]:
    """What a trained net scored: data set, top-1 of the last epoch in percent, convention, seed, command."""
    return json.loads(_file(name, ".json").read_text())


def _file(name: str, suffix: str) -> Path:
    if name not in trained_names():
        raise ValueError(f"no trained net {name!r} comes with the package: {nearest(name, trained_names())}")
    return FOLDER / f"{name}{suffix}"
