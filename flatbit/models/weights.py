"""A third party's weights into a model: names mapped, or refused with both lists.

Files come from other people's training code: a ``.pth`` whose dictionary is wrapped, whose keys carry
prefixes, whose layers have other names. What is mapped by shape and order is only what can be mapped
in one way; the accuracy of the float model, measured before anything is quantized, is the proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from torch import Tensor, nn

from ..registry import nearest
from ..text import as_text
from ..undo import undone_on_failure
from ..wrappers import PARTS, is_count, load_state_, respelled, spelling, state_of
from .pairing import layers_of, paired, refusal, shapes_of
from .third_party import AUXILIARY, COUNTER, find_set, read_checkpoint

PREFIXES = (*(f"{part}." for part in PARTS), "model.", "net.", "network.", "backbone.", "encoder.")

Tensors = dict[str, Tensor]


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
            not, what was renamed to nothing, other sets of weights beside the one that was taken, by their keys.
        as_built: layers of the model that got nothing: (the model's layer, its shapes, what the file has there).
    """

    path: str
    how: Literal["name", "order"]
    removed: tuple[str, ...]
    layers: tuple[tuple[str, str, str], ...]
    ignored: tuple[str, ...] = ()
    as_built: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        by = {"name": "by name", "order": "by shape and order"}[self.how]
        removed = f", without {', '.join(map(repr, self.removed))}" if self.removed else ""
        table = Table("in the file", "in the model", "shapes", title=f"{Path(self.path).name}: mapped {by}{removed}")
        for row in self.layers:
            table.add_row(*row)
        left_out = [name for name in self.ignored if not name.endswith(COUNTER)]
        new = [f"As it is built: {layer} ({own}); in the file: {theirs}" for layer, own, theirs in self.as_built]
        return as_text(table, *([f"Left out: {', '.join(left_out)}"] if left_out else []), *new)


def load_weights_(
    model: nn.Module,
    path: str | Path,
    *,
    rename: Mapping[str, str | None] | None = None,
    key: str | None = None,
    as_built: Collection[str] = (),
) -> Matching:
    """Load third-party float weights into a float model, in place.

    Args:
        model: of the same architecture; its names may differ.
        path: ``.safetensors``, or what ``torch.save`` wrote (``.pth``, ``.pt``, ``.bin``, ``.tar``), which
            is read as tensors only: a pickle that wants to run code is refused.
        rename: layers of the file, single tensors (``fc.bias``) or the beginning of their names, by the model's,
            where order does not tell; None or an empty name leaves them out, and a layer of this name that then
            gets nothing stays as it is built. The rest is mapped as ever.
        key: which set of weights, where a file holds several: the keys that lead to it (``"ema"``,
            ``"model.state_dict"``), or a prefix of its names (``"state_dict.teacher"``).
        as_built: layers of the model, or the beginning of their names, that stay as they are: a head of another
            size. What the file has for them, by name or of a shape of its own, is left out.

    Returns:
        What went where; prints as a table.

    Raises:
        ValueError: not a checkpoint; several sets of weights that could be meant, listed by key; a tensor that is
            not finite, or of whole numbers where the model's are not; layers that do not map in exactly one way,
            with both lists.
    """
    rename = {old: new or "" for old, new in (rename or {}).items()}
    own = state_of(model)
    wanted = {name: value for name, value in own.items() if isinstance(value, Tensor) and not name.endswith(COUNTER)}
    kept = _kept(wanted, as_built)
    needed = {name: value for name, value in wanted.items() if name not in kept}
    spare = len(kept) if all(rename.values()) else float("inf")
    shapes = Counter(tuple(value.shape) for value in needed.values())
    taken, beside = find_set(read_checkpoint(path), shapes, path, key=key, spare=spare)
    tensors, prefixes = _spelled(dict(taken.tensors), set(needed))
    ignored = [name for name in tensors if _is_ignored(name, wanted)]
    weights = {name: value for name, value in tensors.items() if name not in ignored}
    pins, dropped = _pinned(weights, wanted, _acting(rename, ignored), path)
    free = {name: value for name, value in needed.items() if name not in pins}
    left = {name: value for name, value in weights.items() if name not in {*pins.values(), *dropped}}
    how, sources, instead = _sources(left, free, kept, dropped, path, type(model).__name__)
    sources |= pins
    mapped = {name: _as(weights[source], own[name], source, path) for name, source in sources.items()}
    with undone_on_failure(model, wanted.values()):
        load_state_(model, own | mapped)
    used = {*sources.values()}
    empty = [old for old, new in rename.items() if not new]
    return Matching(
        path=str(path),
        how=how,
        removed=(*(taken.trail if taken.whole else (*taken.trail[:-1], f"{taken.trail[-1]}.")), *prefixes),
        layers=_rows(sources, wanted),
        ignored=(*ignored, *_named(dropped, empty), *instead.values(), *beside),
        as_built=_stayed(wanted, sources, instead, {name: weights[name] for name in weights if name not in used}),
    )


def _is_ignored(name: str, wanted: Tensors) -> bool:
    """Whether a file's tensor is a counter, or of an auxiliary head that the model has not."""
    return name.endswith(COUNTER) or (name not in wanted and (is_count(name) or name.startswith(AUXILIARY)))


def _kept(wanted: Tensors, as_built: Collection[str]) -> Tensors:
    """The model's tensors in layers that stay as they are. Raises ValueError for a layer that is none."""
    kept: Tensors = {}
    for layer in [as_built] if isinstance(as_built, str) else as_built:
        found = {name: value for name, value in wanted.items() if _is_below(name, layer)}
        if not found:
            raise ValueError(f"as_built {layer!r}: the model has no such layer: {nearest(layer, layers_of(wanted))}")
        kept |= found
    return kept


def _is_below(name: str, layer: str) -> bool:
    """Whether a tensor is the one that is named, or of the layers that are."""
    return f"{name}.".startswith(layer.rstrip(".") + ".")


def _spelled(tensors: Tensors, wanted: set[str]) -> tuple[Tensors, list[str]]:
    """Take off prefixes that all names share, until all that is wanted is there; then wrappers' parts inside."""
    removed: list[str] = []
    while not wanted <= tensors.keys():
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in tensors if not is_count(n))), None)
        if prefix is None:
            break
        removed.append(prefix)
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    spell = spelling(tensors, wanted)
    if any(spell(name) != name for name in tensors):
        return respelled(tensors, spell, wanted), [*removed, "the parts of wrappers inside"]
    return tensors, removed


def _acting(rename: Mapping[str, str], ignored: Sequence[str]) -> dict[str, str]:
    """What is to be renamed, without what is to be left out and is so anyway."""
    return {old: new for old, new in rename.items() if new or not any(_is_below(name, old) for name in ignored)}


def _pinned(
    theirs: Tensors, ours: Tensors, rename: Mapping[str, str], path: str | Path
) -> tuple[dict[str, str], list[str]]:
    """(our name to theirs, their names to leave out), as the caller says. Raises ValueError for what does not fit."""
    pinned: dict[str, str] = {}
    dropped: list[str] = []
    for old, new in rename.items():
        found = [name for name in theirs if _is_below(name, old)]
        if not found:
            known = [*layers_of(theirs), *theirs]
            raise ValueError(f"rename {old!r}: {path} has no such layer: {nearest(old, known)}")
        if not new:
            dropped += found
            continue
        targets = {name: new.rstrip(".") + name.removeprefix(old.rstrip(".")) for name in found}
        _check_targets({targets[name]: theirs[name] for name in found}, ours, old, new)
        pinned |= {target: name for name, target in targets.items()}
    return pinned, dropped


def _named(dropped: Sequence[str], empty: Collection[str]) -> list[str]:
    """What is left out, by layers; by tensors where these are what the caller named."""
    return list(dict.fromkeys(name if name in empty else name.rpartition(".")[0] for name in dropped))


def _check_targets(renamed: Tensors, ours: Tensors, old: str, new: str) -> None:
    """Raise ValueError unless the model has tensors of these names and shapes."""
    layers, whole = layers_of(renamed), layers_of(ours)
    for layer, theirs in layers.items():
        if layer not in whole:
            raise ValueError(f"rename {old!r} to {new!r}: the model has no layer {layer!r}: {nearest(layer, whole)}")
        one = new.rpartition(".")[0] == layer and new not in whole
        own = {leaf: t for leaf, t in whole[layer].items() if leaf in theirs or not one}
        if shapes_of(theirs) != shapes_of(own):
            source = old if one else old.rstrip(".") + layer.removeprefix(new.rstrip("."))
            named = f"{source} is {shapes_of(theirs)}, {layer} {shapes_of(own) or 'has ' + ', '.join(whole[layer])}"
            raise ValueError(f"rename {old!r} to {new!r}: {named}")


def _sources(
    left: Tensors, free: Tensors, kept: Tensors, dropped: Collection[str], path: str | Path, model: str
) -> tuple[Literal["name", "order"], dict[str, str], dict[str, str]]:
    """How the rest maps, their name by ours, and their layer by that of ours which stays as it is built instead.

    Raises ValueError with both lists.
    """
    theirs, ours = layers_of(left), layers_of(free)
    stays = list(layers_of(kept))
    instead = {layer: layer for layer in stays if layer in theirs}
    shapes = {shapes_of(layer) for layer in ours.values()}
    odd = [name for name, layer in theirs.items() if shapes_of(layer) not in shapes and name not in instead]
    if len(odd) <= len(stays) - len(instead):
        instead |= dict(zip((layer for layer in stays if layer not in instead), odd, strict=False))
    theirs = {name: layer for name, layer in theirs.items() if name not in instead.values()}
    undropped = layers_of({name: value for name, value in free.items() if name not in dropped})
    found = paired(theirs, ours, path) or paired(theirs, undropped, path)
    if found is None:
        raise ValueError(refusal(theirs, ours, path, model))
    how, pairs = found
    sources = {_join(to, leaf): _join(source, leaf) for to, source in pairs.items() for leaf in theirs[source]}
    return how, sources, instead


def _rows(sources: Mapping[str, str], ours: Tensors) -> tuple[tuple[str, str, str], ...]:
    """(their layer, or its tensors where they are called otherwise, our layer, its shapes), in the model's order."""
    rows = []
    for layer, own in layers_of({name: value for name, value in ours.items() if name in sources}).items():
        pairs = [(leaf, *sources[_join(layer, leaf)].rpartition(".")[::2]) for leaf in own]
        alike = len({source for _, source, _ in pairs}) == 1 and all(leaf == theirs for leaf, _, theirs in pairs)
        names = [pairs[0][1]] if alike else [_join(source, theirs) for _, source, theirs in pairs]
        rows.append((", ".join(names), layer, shapes_of(own)))
    return tuple(rows)


def _stayed(
    ours: Tensors, sources: Mapping[str, str], instead: Mapping[str, str], theirs: Tensors
) -> tuple[tuple[str, str, str], ...]:
    """(our layer, the shapes that got nothing, what the file has instead), in the model's order."""
    stays, layers = layers_of({name: t for name, t in ours.items() if name not in sources}), layers_of(theirs)
    return tuple(
        (layer, shapes_of(own), f"{other} {shapes_of(layers[other])}" if other in layers else "nothing")
        for layer, own in stays.items()
        for other in [instead.get(layer, layer)]
    )


def _as(tensor: Tensor, own: Tensor, name: str, path: str | Path) -> Tensor:
    """A tensor in the dtype of the model's. Raises ValueError for NaN, and where its kind of number would change."""
    if (tensor.is_floating_point(), tensor.is_complex()) != (own.is_floating_point(), own.is_complex()):
        raise ValueError(
            f"{path}: tensor {name!r} is {tensor.dtype}, the model's {own.dtype}: convert it first (the codes of a "
            "quantized file with their scales), and give that"
        )
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    if not bool(dense.isfinite().all()):
        raise ValueError(f"{path}: tensor {name!r} has NaN or infinite values: the checkpoint is damaged")
    return dense.to(own.dtype)


def _join(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf
