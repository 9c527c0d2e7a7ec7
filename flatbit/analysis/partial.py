"""Partial results: an analysis of many points writes each down as it is measured, and goes on from there.

RUN/analysis/NAME/partial.jsonl holds a line that says what is measured of which models, then a line per point.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import plain
from ..progress import track
from ..quant.table import quantized_layers
from ..wrappers import state_of

T = TypeVar("T")
FILE = "partial.jsonl"
SHOWN = 12


def measured_each(
    points: Sequence[T],
    measure: Callable[[T], Any],
    description: str,
    *,
    folder: Path | None = None,
    key: Mapping[str, Any] | None = None,
) -> list[Any]:
    """``measure`` of every point, in order, under a progress bar with the time left.

    Args:
        points: what is measured, always in the same order.
        measure: gives plain values, as JSON holds them, the same whenever it is asked.
        description: of the progress bar.
        folder: where each is written down at once, to go on from after an interruption; the file is removed once all
            are there. None keeps nothing.
        key: what the values follow from, plain: digests of models and data, settings.

    Raises:
        ValueError: what is kept in the folder is of another key, or damaged: says what differs.
    """
    if folder is None:
        return [measure(point) for point in track(points, description)]
    path, header = folder / FILE, dict(key or {}) | {"points": len(points)}
    found = _read(path, header)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *found)))
    with path.open("a") as file:
        for index, point in enumerate(track(points, description)):
            if index >= len(found):
                found.append(measure(point))
                file.write(json.dumps(found[-1]) + "\n")
                file.flush()
    path.unlink()
    return found


def digest_of(model: nn.Module) -> str:
    """The first 12 digits of SHA-256 of a model's tensors, by name, and how its layers are quantized."""
    specs = json.dumps({name: plain.to_plain(layer.spec) for name, layer in quantized_layers(model)})
    return _digest(specs, state_of(model).items())


def digest_of_samples(batches: Iterable[tuple[Tensor, ...]]) -> str:
    """The same of samples, in their order."""
    return _digest("", ((str(index), tensor) for index, batch in enumerate(batches) for tensor in batch))


def _digest(words: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    found = hashlib.sha256(words.encode())
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:SHOWN]


def _read(path: Path, header: Mapping[str, Any]) -> list[Any]:
    """The values that a file has for this header; a last line that was cut off is none. Raises ValueError."""
    if not path.exists():
        return []
    whole = path.read_text().splitlines(keepends=True)
    try:
        lines = [json.loads(line) for line in whole if line.endswith("\n")]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to begin anew") from error
    if not lines:
        return []
    there, here = lines[0], json.loads(json.dumps(header))
    if there != here:
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        changed = "; ".join(f"{name} was {there.get(name)}, is {here.get(name)}" for name in names)
        raise ValueError(f"{path} is part of another result: {changed}: remove it to begin anew, or ask for that one")
    return lines[1:]
