"""Pairing: a file's layers with a model's, by name, or by shape and order where that can be done in one way."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

SHOWN = 60

Layers = dict[str, dict[str, Tensor]]


def paired(theirs: Layers, ours: Layers, path: str | Path) -> tuple[Literal["name", "order"], dict[str, str]] | None:
    """How, and their layer by ours; None where there is no one way."""
    if {n: shapes_of(layer) for n, layer in theirs.items()} == {n: shapes_of(layer) for n, layer in ours.items()}:
        return "name", {name: name for name in ours}
    pairs = (_pair_by_numbers if Path(path).suffix == ".safetensors" else _pair_by_order)(theirs, ours)
    return None if pairs is None else ("order", {to: source for source, to in pairs})


def layers_of(tensors: Mapping[str, Tensor]) -> Layers:
    """Tensors by the layer they belong to, in order: ``{"conv1": {"weight": ...}}``."""
    layers: Layers = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = tensor
    return layers


def _pair_by_order(theirs: Layers, ours: Layers) -> list[tuple[str, str]] | None:
    """(their layer, our layer), where all shapes come in the same order, or those out of order are unique."""
    signatures = [[shapes_of(layer) for layer in layers.values()] for layers in (theirs, ours)]
    if signatures[0] == signatures[1]:
        return list(zip(theirs, ours, strict=True))
    counts = [Counter(side) for side in signatures]
    common = [s for s in signatures[0] if counts[0][s] > 1]
    if counts[0] != counts[1] or common != [s for s in signatures[1] if counts[1][s] > 1]:
        return None
    waiting = {
        shape: [name for name, s in zip(theirs, signatures[0], strict=True) if s == shape] for shape in counts[0]
    }
    return [(waiting[shape].pop(0), name) for name, shape in zip(ours, signatures[1], strict=True)]


def _pair_by_numbers(theirs: Layers, ours: Layers) -> list[tuple[str, str]] | None:
    """(their layer, our layer) of a file that keeps no order (safetensors sorts its names).

    Layers of one shape are sorted by the numbers in their names, where these tell all that differs:
    ``layer1.0.conv2`` before ``layer1.1.conv1``. Families of names (``layer#.#.conv#``) map to ours of
    the same size, where there is one.
    """
    pairs = {}
    left, right = _families(theirs), _families(ours)
    if left.keys() != right.keys():
        return None
    for shape in left:
        sizes = [sorted(len(family) for family in side[shape].values()) for side in (left, right)]
        if sizes[0] != sizes[1] or len(set(sizes[0])) != len(sizes[0]):
            return None
        for family in left[shape].values():
            match = next(other for other in right[shape].values() if len(other) == len(family))
            pairs |= dict(zip(match, family, strict=True))
    return [(pairs[name], name) for name in ours]


def _families(layers: Layers) -> dict[str, dict[str, list[str]]]:
    """Layers by shape, then by their name without numbers; sorted by the numbers."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, layer in sorted(layers.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]):
        found.setdefault(shapes_of(layer), {}).setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return found


def refusal(theirs: Layers, ours: Layers, path: str | Path, model: str) -> str:
    """Both lists side by side, from the first layers that differ."""
    left = [f"{name} {shapes_of(layer)}" for name, layer in theirs.items()]
    right = [f"{name} {shapes_of(layer)}" for name, layer in ours.items()]
    numbers = [sum(math.prod(t.shape) for layer in side.values() for t in layer.values()) for side in (theirs, ours)]
    pairs = zip([shapes_of(t) for t in theirs.values()], [shapes_of(t) for t in ours.values()], strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
    width = max((len(line) for line in left[same : same + SHOWN]), default=0)
    rows = max(len(left), len(right))
    lines = [
        f"  {left[i] if i < len(left) else '':{width}} | {right[i] if i < len(right) else ''}"
        for i in range(same, min(rows, same + SHOWN))
    ]
    more = f"\n  ... and {rows - same - SHOWN} more" if rows - same > SHOWN else ""
    return (
        f"{path} does not map onto {model}: it has {len(theirs)} layers with {numbers[0]:,} numbers, the model "
        f"{len(ours)} with {numbers[1]:,}; the first {same} agree, then (file | model):\n"
        + "\n".join(lines)
        + f"{more}\nBuild the model it was made for (num_classes, width, shortcut), or rename or leave out layers "
        "(--rename OLD=NEW, OLD=), or keep a new head as it is built (as_built, --as-built LAYER)"
    )


def shapes_of(layer: Mapping[str, Tensor]) -> str:
    """A layer's tensors with their shapes, in words."""
    return ", ".join(
        f"{leaf} {'x'.join(map(str, tensor.shape)) or '1'}" for leaf, tensor in sorted(layer.items(), reverse=True)
    )
