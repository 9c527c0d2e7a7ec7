"""Saved results: what an analysis found, in a JSON file that is read back equal, without the models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import plain
from ..atomic import replacing

FILE = "result.json"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Saved:
    """A result, and what was analyzed, as figures are titled."""

    title: str
    result: Any


def write_result(folder: Path, result: Any, *, title: str) -> Path:
    """Write a frozen dataclass of plain values, arrays and tensors to ``FOLDER/result.json``, whole or not at all.

    Raises ValueError for a field that holds anything else.
    """
    path = folder / FILE
    with replacing(path) as partial:
        partial.write_text(json.dumps({"title": title, "result": plain.to_plain(result)}))
    return path


def read_result(folder: Path, kind: type) -> Saved:
    """The result of a class that ``write_result`` left in a folder. Raises ValueError where there is none."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist: nothing was analyzed there yet")
    try:
        found = json.loads(path.read_text())
        return Saved(title=found["title"], result=plain.from_plain(kind, found["result"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what write_result left for {kind.__name__} ({error}): analyze again"
        ) from error


def _write_array(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": array.ravel().tolist()}


def _read_array(found: Any) -> np.ndarray:
    return np.array(found["values"], dtype=np.dtype(found["dtype"])).reshape(found["shape"])


plain.add_codec(np.ndarray, _write_array, _read_array)
plain.add_codec(
    Tensor,
    lambda tensor: _write_array(tensor.detach().cpu().numpy()),
    lambda found: torch.from_numpy(_read_array(found)),
)
