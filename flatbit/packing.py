"""The format of packed files: safetensors with the codes of quantized tensors as bits, and what decodes them.

A quantized parameter stands under its own name as bytes (``flatbit.bits``) of ``code - low``, the step of a quantizer
as ``NAME_quantizer.step``, everything else of the state as it is. The description holds the format, its version, how
the model is built, the layers' specs, a ``Coding`` for each quantized tensor, and counters: single whole numbers. What
many layers have alike stands there once, with their names: ``[[what, [name, ...]], ...]``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import plain
from .bits import packed_bits, unpacked_bits
from .quant.fixed import Coding, FixedGrid
from .quant.grid import Grid
from .quant.layers import QUANTIZER
from .quant.site import Site
from .quant.spec import LayerSpec, TensorSpec
from .tensor_file import CHECKSUMS, DAMAGED, entry, read_tensors

FORMAT, VERSION = "flatbit-packed", "2"


def is_packed(description: Mapping[str, str]) -> bool:
    """Whether the description of a file is a packed one's."""
    return description.get("format") == FORMAT


def check_version(path: str | Path, description: Mapping[str, str]) -> None:
    """Raise ValueError for a packed file of another version."""
    if (found := description.get("version")) != VERSION:
        raise ValueError(
            f"{path} is of version {found!r} of packed files, this flatbit reads {VERSION}: export its net again, or "
            "install the flatbit that wrote it"
        )


def tensor_name(layer: str, slot: str) -> str:
    """The name of a layer's tensor in a file."""
    return f"{layer}.{slot}".lstrip(".")


def step_name(name: str) -> str:
    """The name of the step of a tensor's quantizer."""
    return f"{name}{QUANTIZER}.step"


def packed_codes(codes: Tensor, coding: Coding) -> Tensor:
    """Codes as bytes, uint8 of one axis."""
    return packed_bits(codes.long() - coding.low, coding.bits)


def describe(
    specs: Mapping[str, LayerSpec], codings: Mapping[str, Coding], counters: Mapping[str, int]
) -> dict[str, str]:
    """The entries of a packed file's description that are not of every file; short, as small nets are packed too."""
    shapes = {name: list(coding.shape) for name, coding in codings.items() if coding.shape is not None}
    grids = {name: replace(coding, shape=None) for name, coding in codings.items()}
    entries = {"specs": _grouped(specs), "grids": _grouped(grids), "shapes": shapes, "counters": counters}
    texts = {key: json.dumps(found, separators=(",", ":")) for key, found in entries.items()}
    return {"format": FORMAT, "version": VERSION} | texts


def _grouped(found: Mapping[str, Any]) -> list[Any]:
    """What is found under names, as pairs of something and the names that have it."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, part in found.items():
        said = _short(plain.to_plain(part))
        groups.setdefault(json.dumps(said), (said, []))[1].append(name)
    return [list(group) for group in groups.values()]


def by_name(found: Any) -> dict[str, Any]:
    """What pairs of something and the names that have it say of each name. Raises ValueError where they are none."""
    pairs = [(str(name), part) for part, names in found for name in names]
    if len(by := dict(pairs)) < len(pairs):
        raise ValueError("a name comes twice")
    return by


def _short(found: Any) -> Any:
    """The same without lists and mappings that are empty: a field that is missing has them."""
    if not isinstance(found, dict):
        return found
    return {key: _short(part) for key, part in found.items() if part not in ([], {})}


def read_packed(
    path: str | Path, specs: Mapping[str, LayerSpec]
) -> tuple[dict[str, Tensor], Callable[[TensorSpec, Site], FixedGrid]]:
    """A packed file as the state of a model with fixed grids, and what makes these.

    Args:
        path: the file.
        specs: of its layers, as it states them.

    Returns:
        Tensors by the names of the model's ``state_dict``, codes as the values that they stand for; and the function
        from a spec and its site to the quantizer.

    Raises:
        ValueError: no checksums, or such as do not hold; a description that contradicts the tensors.
    """
    tensors, description = read_tensors(path)
    if CHECKSUMS not in description:
        raise ValueError(f"{path}: a packed file has checksums, and this one has none: {DAMAGED}")
    shapes = entry(path, description, "shapes", dict)
    codings = entry(path, description, "grids", lambda found: _codings(by_name(found), shapes))
    counters = entry(path, description, "counters", _counters)
    stated = {tensor_name(layer, slot): part for layer, spec in specs.items() for slot, part in spec.tensors.items()}
    if odd := sorted(stated.keys() ^ codings.keys()):
        raise ValueError(f"{path}: {odd[0]!r} is not both in its specs and its grids: {DAMAGED}")
    if odd := sorted(counters.keys() & tensors.keys()):
        raise ValueError(f"{path}: {odd[0]!r} is a tensor and a counter: {DAMAGED}")
    state = dict(tensors) | {name: torch.tensor(number) for name, number in counters.items()}
    for name, coding in codings.items():
        state |= _decoded(path, name, coding, tensors)
        state[f"{name}{QUANTIZER}.bits"] = torch.tensor(float(stated[name].bits))
    return state, lambda spec, site: FixedGrid(spec, site, codings[tensor_name(site.layer, site.name)])


def _codings(found: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Coding]:
    if odd := sorted(shapes.keys() - found.keys()):
        raise ValueError(f"a shape of {odd[0]!r}, which has no grid")
    shaped = {name: {"shape": shapes[name]} if name in shapes else {} for name in found}
    return {name: plain.from_plain(Coding, dict(said) | shaped[name], name) for name, said in found.items()}


def _counters(found: Any) -> dict[str, int]:
    if not all(type(number) is int and abs(number) < 1 << 63 for number in found.values()):
        raise ValueError(f"{found!r:.60}: expected whole numbers")
    return dict(found)


def _decoded(path: str | Path, name: str, coding: Coding, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of one tensor, by its name; nothing for an activation. Raises ValueError where they do not fit."""
    step = tensors.get(step_name(name))
    if step is None or not step.is_floating_point() or not bool((step.isfinite() & (step > 0)).all()):
        raise ValueError(f"{path}: the step of {name!r} is missing or no positive number: {DAMAGED}")
    if coding.shape is None:
        return {}
    if name not in tensors:
        raise ValueError(f"{path}: it states a grid of {name!r}, and has no codes of it: {DAMAGED}")
    try:
        numbers = unpacked_bits(tensors[name], coding.bits, math.prod(coding.shape))
        if int(numbers.max()) > coding.high - coding.low:
            raise ValueError(f"a code of {int(numbers.max()) + coding.low}: expected {coding.low} to {coding.high}")
        values = values_of(numbers + coding.low, step, coding)
        if not bool(values.isfinite().all()):
            raise ValueError("its values are beyond float32")
        return {name: values}
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path}: {name!r} does not fit its grid ({error}): {DAMAGED}") from error


def values_of(codes: Tensor, step: Tensor, coding: Coding) -> Tensor:
    """The values of codes in any shape; a step with an axis more than they have is one for each group of rows."""
    shape = coding.shape or ()
    by_group = (len(step), -1, *shape[1:]) if step.ndim > len(shape) else shape
    grid = Grid(step=step, offset=coding.offset, low=coding.low, high=coding.high)
    return grid.value(codes.reshape(by_group)).reshape(shape)
