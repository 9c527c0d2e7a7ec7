"""A third party's file: read without running it, and which of the sets of tensors in it is meant."""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..registry import nearest
from ..tensor_file import read_tensors
from ..wrappers import is_count

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "network", "params", "weights")
"""What training code calls the weights; an average of them or a teacher beside them has another name."""
COUNTER = "num_batches_tracked"  # batch norm's count of batches: no weight, and often left out
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception and GoogLeNet that only their first training needs

Shapes = Counter[tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSet:
    """Tensors that stand together in a file, and where.

    Attributes:
        trail: the keys that lead to them, from the outermost.
        tensors: by name, those of mappings below them too.
        whole: whether they are a mapping of the file, not the names below a prefix of one.
    """

    trail: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    whole: bool = True

    @property
    def key(self) -> str:
        """The trail as ``--checkpoint-key`` takes it."""
        return ".".join(self.trail)

    def shapes(self) -> Shapes:
        """How often each shape occurs, of what a model may want."""
        auxiliary = [n for n in self.tensors if any(f".{head}" in f".{n}" for head in AUXILIARY)]
        names = [n for n in self.tensors if not (n.endswith(COUNTER) or is_count(n) or n in auxiliary)]
        return Counter(tuple(self.tensors[name].shape) for name in names)

    def __str__(self) -> str:
        numbers = sum(math.prod(tensor.shape) for tensor in self.tensors.values())
        return f"{self.key!r} ({len(self.tensors)} tensors, {numbers:,} numbers)"


def read_checkpoint(path: str | Path) -> Any:
    """The content of a checkpoint file, read without executing any of it. Raises ValueError."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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


def find_set(
    content: Any, wanted: Shapes, path: str | Path, *, key: str | None = None, spare: float = 0
) -> tuple[TensorSet, list[str]]:
    """The set of tensors that is meant, and the keys of the others.

    That is the one of the model's shapes, at whatever depth; where several have them, the one that is called as
    weights are (``WRAPPERS``).

    Args:
        content: what ``read_checkpoint`` gave.
        wanted: the shapes of the model's tensors.
        path: of the file.
        key: the keys that lead to it, with dots between, or a prefix of names: ``"model.ema"``.
        spare: how many tensors may be left over.

    Raises:
        ValueError: no tensors; no such key; several sets that could be meant, all listed.
    """
    found = every = list(_sets(content))
    if not isinstance(content, Mapping | list | tuple) or (not found and not isinstance(content, Mapping)):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected a dictionary of tensors (a state_dict)")
    if not found:
        raise ValueError(f"{path} holds no tensors: its keys are {list(content)[:8]}, expected a state_dict")
    groups = [group for each in _direct(found) for group in _groups(each)]
    if key is not None:
        named = [each for each in (*found, *groups) if each.key == key]
        if not named:
            raise ValueError(f"{path} has no tensors under {key!r} (--checkpoint-key): {_listed(found, key)}")
        if not named[0].whole:
            return named[0], _others(named[0], found)
        found = [each for each in found if each is named[0] or _within(each, named[0])]
        groups = [group for each in _direct(found) for group in _groups(each)]
    pool = _fitting(found, wanted, spare) or _outermost(_fitting(groups, wanted, spare)) or _alike(found, wanted)
    usual = [each for each in pool if {*each.trail} <= {*WRAPPERS}]
    if len(pool) > 1 and len(usual) != 1:
        raise ValueError(
            f"{path} holds several sets of weights, and does not say which is the model's: "
            f"{', '.join(map(str, pool))}: name one, as in key={pool[0].key!r} (--checkpoint-key {pool[0].key})"
        )
    taken = pool[0] if len(pool) == 1 else usual[0]
    return taken, _others(taken, every)


def _sets(content: Any, trail: tuple[str, ...] = ()) -> Iterator[TensorSet]:
    """Each mapping that holds tensors, itself or below it, from the outermost; an optimizer's state is none."""
    tensors = _below(content)
    if tensors:
        yield TensorSet(trail=trail, tensors=tensors)
        for name, value in _items(content):
            yield from _sets(value, (*trail, name))


def _items(content: Any) -> list[tuple[str, Any]]:
    """What a mapping or list of a checkpoint holds, by name."""
    if isinstance(content, list | tuple):
        return [(str(index), value) for index, value in enumerate(content) if isinstance(value, Mapping)]
    if not isinstance(content, Mapping) or "param_groups" in content:
        return []
    return [(name, value) for name, value in content.items() if isinstance(name, str)]


def _below(content: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in _items(content):
        if isinstance(value, Tensor):
            tensors[name] = value
        tensors |= {f"{name}.{below}": tensor for below, tensor in _below(value).items()}
    return tensors


def _direct(found: list[TensorSet]) -> list[TensorSet]:
    """Those that hold tensors of their own, not of mappings below them alone."""
    return [each for each in found if each.tensors.keys() - _inherited(each, found)] or found[-1:]


def _inherited(each: TensorSet, found: list[TensorSet]) -> set[str]:
    depth = len(each.trail)
    below = [other for other in found if len(other.trail) == depth + 1 and other.trail[:depth] == each.trail]
    return {f"{other.trail[-1]}.{name}" for other in below for name in other.tensors}


def _groups(each: TensorSet) -> list[TensorSet]:
    """The names below each prefix (``teacher.``), without it."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in each.tensors.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            groups.setdefault(".".join(parts[:depth]), {})[".".join(parts[depth:])] = tensor
    made = [TensorSet(trail=(*each.trail, *p.split(".")), tensors=t, whole=False) for p, t in groups.items()]
    return [group for group in made if len(group.tensors) < len(each.tensors)]


def _fitting(sets: list[TensorSet], wanted: Shapes, spare: float) -> list[TensorSet]:
    """Those with all shapes that are wanted and few others; of one within another the inner."""
    fit = [each for each in sets if wanted <= (have := each.shapes()) and have.total() - wanted.total() <= spare]
    if fit and not fit[0].whole:
        return fit
    return [each for each in fit if not any(_within(other, each) for other in fit)]


def _outermost(groups: list[TensorSet]) -> list[TensorSet]:
    return [each for each in groups if not any(_within(each, other) for other in groups)]


def _within(inner: TensorSet, outer: TensorSet) -> bool:
    return inner is not outer and inner.trail[: len(outer.trail)] == outer.trail


def _alike(found: list[TensorSet], wanted: Shapes) -> list[TensorSet]:
    """Those that share most shapes with what is wanted, at least half as many as the best; of all where none does."""
    direct = _direct(found)
    shared = {each.trail: (each.shapes() & wanted).total() for each in direct}
    most = max(shared.values())
    return [each for each in direct if shared[each.trail] >= max(most / 2, 1)] or direct


def _others(taken: TensorSet, found: list[TensorSet]) -> list[str]:
    """What of a file is not taken: other sets by their keys, what stands beside a prefix by its first name."""
    sets = [other.key for other in _direct(found) if not (_within(other, taken) or _within(taken, other))]
    if taken.whole:
        return [key for key in sets if key != taken.key]
    holder = max((each for each in found if _within(taken, each)), key=lambda each: len(each.trail))
    parts = taken.trail[len(holder.trail) :]
    beside = [name for name in holder.tensors if not name.startswith(f"{'.'.join(parts)}.")]
    return sets + sorted({".".join(name.split(".")[: len(parts)]) for name in beside})


def _listed(found: list[TensorSet], key: str) -> str:
    direct = _direct(found)
    near = nearest(key, [each.key for each in direct if each.trail])
    return f"it has {', '.join(map(str, direct))}; {near}"
