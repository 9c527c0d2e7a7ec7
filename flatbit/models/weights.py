"""A third-party checkpoint: read without running it, its names mapped to a model's, or refused with both lists.

Files come from other people's training code: a ``.pth`` whose dictionary is wrapped, whose keys carry
prefixes, whose layers have other names. What is mapped by shape and order is only what can be mapped
in one way; the accuracy of the float model, measured before anything is quantized, is the proof.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..registry import nearest
from ..text import as_text
from ..undo import undone_on_failure

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "network", "params", "weights", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
COUNTER = "num_batches_tracked"  # batch norm's count of batches: no weight, and often left out
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception and GoogLeNet that only their first training needs
SHOWN = 60

Layers = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Which tensor of a file went where.

    Attributes:
        path: the file.
        how: ``name`` (all names are the model's), or ``order`` (layers of the same shapes in the same order:
            that of the file, or of the numbers in its names where a file keeps none).
        removed: wrappers and prefixes that were taken off.
        layers: (the file's layer, the model's layer, its shapes), in order.
        ignored: what of the file was not taken: batch norm's counters, auxiliary heads that the model has
            not, layers renamed to nothing, other sets of weights beside the one that was taken.
    """

    path: str
    how: Literal["name", "order"]
    removed: tuple[str, ...]
    layers: tuple[tuple[str, str, str], ...]
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        by = {"name": "by name", "order": "by shape and order"}[self.how]
        removed = f", without {', '.join(map(repr, self.removed))}" if self.removed else ""
        table = Table("in the file", "in the model", "shapes", title=f"{Path(self.path).name}: mapped {by}{removed}")
        for row in self.layers:
            table.add_row(*row)
        left_out = [name for name in self.ignored if not name.endswith(COUNTER)]
        return as_text(table, *([f"Left out: {', '.join(left_out)}"] if left_out else []))


def load_weights_(model: nn.Module, path: str | Path, *, rename: Mapping[str, str] | None = None) -> Matching:
    """Load third-party float weights into a float model, in place.

    Args:
        model: of the same architecture; its names may differ.
        path: ``.safetensors``, or what ``torch.save`` wrote (``.pth``, ``.pt``, ``.bin``, ``.tar``), which
            is read as tensors only: a pickle that wants to run code is refused.
        rename: layers of the file, or the beginning of their names, by the model's, where order does not
            tell; an empty name leaves a layer out. The rest is mapped as ever.

    Returns:
        What went where; prints as a table.

    Raises:
        ValueError: not a checkpoint; a tensor that is not finite; layers that do not map in exactly one
            way, with both lists.
    """
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    wanted = {key: value for key, value in own.items() if not key.endswith(COUNTER)}
    tensors, removed, beside = _unwrapped(read_checkpoint(path), path)
    _check_finite(tensors, path)
    tensors, prefixes = _without_prefixes(tensors, set(wanted))
    ignored = [key for key in tensors if key.endswith(COUNTER) or (key.startswith(AUXILIARY) and key not in wanted)]
    weights = {key: value for key, value in tensors.items() if key not in ignored}
    theirs, ours = _layers(weights), _layers(wanted)
    pinned, dropped = _pinned(theirs, ours, rename or {}, path)
    left = {name: layer for name, layer in theirs.items() if name not in {*pinned.values(), *dropped}}
    free = {name: layer for name, layer in ours.items() if name not in pinned}
    how: Literal["name", "order"] = "name"
    pairs: list[tuple[str, str]] | None = [(name, name) for name in free]
    if {name: _shapes(layer) for name, layer in left.items()} != {n: _shapes(layer) for n, layer in free.items()}:
        how = "order"
        pairs = (_pair_by_numbers if Path(path).suffix == ".safetensors" else _pair_by_order)(left, free)
    if pairs is None:
        raise ValueError(_refusal(left, free, path, type(model).__name__))
    sources = pinned | {to: source for source, to in pairs}
    pairs = [(sources[name], name) for name in ours]
    mapped = {
        _join(to, leaf): tensor.to(own[_join(to, leaf)].dtype)
        for source, to in pairs
        for leaf, tensor in theirs[source].items()
    }
    counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}
    with undone_on_failure(model, own.values()):
        model.load_state_dict(counters | mapped)
    return Matching(
        path=str(path),
        how=how,
        removed=(*removed, *prefixes),
        layers=tuple((source, to, _shapes(ours[to])) for source, to in pairs),
        ignored=(*ignored, *dropped, *beside),
    )


def read_checkpoint(path: str | Path) -> Any:
    """The content of a checkpoint file, read without executing any of it. Raises ValueError."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        if path.read_bytes()[:1] not in (b"P", b"\x80"):  # neither a zip nor a pickle
            raise ValueError(f"{path} is not a checkpoint: it is neither a zip file nor a pickle") from error
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise ValueError(
            f"{path} holds more than tensors{what}, and would run code when read: where you trust it, load it "
            "yourself and torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # what a damaged file makes torch's reader stumble over is anything
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path} is not a checkpoint, or is truncated ({reason})") from error


def _unwrapped(content: Any, path: str | Path) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The tensors, the wrappers that were taken off on the way to them, and other sets of tensors beside these."""
    removed: list[str] = []
    beside: list[str] = []
    while isinstance(content, Mapping):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            break
        removed.append(wrapper)
        beside += [str(name) for name, value in content.items() if name != wrapper and _holds_tensors(value)]
        content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected a dictionary of tensors (a state_dict)")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors: its keys are {list(content)[:8]}, expected a state_dict")
    return tensors, removed, beside


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _without_prefixes(tensors: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Take off prefixes that all names share, until the wanted names are there or no prefix is left."""
    removed: list[str] = []
    while not wanted <= tensors.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        removed.append(prefix)
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, removed


def _pinned(
    theirs: Layers, ours: Layers, rename: Mapping[str, str], path: str | Path
) -> tuple[dict[str, str], list[str]]:
    """(our layer to theirs, their layers to leave out), as the caller names them. Raises ValueError for no layers."""
    pinned: dict[str, str] = {}
    dropped: list[str] = []
    for old, new in rename.items():
        found = [name for name in theirs if f"{name}.".startswith(old.rstrip(".") + ".")]
        if not found:
            raise ValueError(f"rename {old!r}: {path} has no such layer: {nearest(old, theirs)}")
        for name in found:
            target = new.rstrip(".") + name.removeprefix(old.rstrip("."))
            if not new:
                dropped.append(name)
            elif target not in ours:
                raise ValueError(
                    f"rename {old!r} to {new!r}: the model has no layer {target!r}: {nearest(target, ours)}"
                )
            elif _shapes(theirs[name]) != _shapes(ours[target]):
                raise ValueError(
                    f"rename {old!r} to {new!r}: {name} is {_shapes(theirs[name])}, {target} {_shapes(ours[target])}"
                )
            else:
                pinned[target] = name
    return pinned, dropped


def _check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: tensor {name!r} has NaN or infinite values: the checkpoint is damaged")


def _layers(tensors: Mapping[str, Tensor]) -> Layers:
    """Tensors by the layer they belong to, in order: ``{"conv1": {"weight": ...}}``."""
    layers: Layers = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = tensor
    return layers


def _pair_by_order(theirs: Layers, ours: Layers) -> list[tuple[str, str]] | None:
    """(their layer, our layer), where all shapes come in the same order, or those out of order are unique."""
    signatures = [[_shapes(layer) for layer in layers.values()] for layers in (theirs, ours)]
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
        found.setdefault(_shapes(layer), {}).setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return found


def _refusal(theirs: Layers, ours: Layers, path: str | Path, model: str) -> str:
    """Both lists side by side, from the first layers that differ."""
    left = [f"{name} {_shapes(layer)}" for name, layer in theirs.items()]
    right = [f"{name} {_shapes(layer)}" for name, layer in ours.items()]
    numbers = [sum(math.prod(t.shape) for layer in side.values() for t in layer.values()) for side in (theirs, ours)]
    pairs = zip([_shapes(t) for t in theirs.values()], [_shapes(t) for t in ours.values()], strict=False)
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
        + f"{more}\nBuild the model it was made for (num_classes, width, shortcut), or rename its layers (--rename)"
    )


def _shapes(layer: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{leaf} {'x'.join(map(str, tensor.shape)) or '1'}" for leaf, tensor in sorted(layer.items(), reverse=True)
    )


def _join(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf
