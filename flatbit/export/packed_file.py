"""Packed files: codes at their true width, the grids that they stand on, and the rest in float.

``flatbit.packing`` is the format, ``docs/packed.md`` says it in words and reads it with numpy alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from .. import models
from ..packing import describe, packed_codes, step_name, tensor_name
from ..quant.convention import convention
from ..quant.fixed import Coding, FixedGrid, between_levels
from ..quant.layers import QUANTIZER
from ..quant.quantizer import Quantizer
from ..quant.reparametrized import folded
from ..quant.spec import FLOAT_BITS, TensorSpec
from ..quant.stored import is_counter
from ..quant.table import bits_of, is_weighted, quantized_layers, quantizer_of, slots_of
from ..tensor_file import distinct, write_tensors
from ..text import as_text
from ..wrappers import named_modules, state_of, unwrapped


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedLayer:
    """What one layer takes in a packed file.

    Attributes:
        weight_bits, activation_bits: in use; 32 for float and for what multiplies nothing.
        size_bytes: of its tensors in the file: codes, steps, and what stays in float.
        float_bytes: of its tensors in the float model.
    """

    name: str
    type: str
    weight_bits: int
    activation_bits: int
    size_bytes: int
    float_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A packed file that was written. Prints as a table.

    Attributes:
        path: the file.
        layers: every module that has tensors in it, in order of definition.
        header_bytes: of names, shapes, grids, specs and checksums; beside the tensors.
    """

    path: Path
    layers: tuple[PackedLayer, ...]
    header_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors in the file: what ``flatbit.cost`` says."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """Bytes of the tensors of the float model."""
        return sum(layer.float_bytes for layer in self.layers)

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.size_bytes + self.header_bytes

    def __str__(self) -> str:
        table = Table("layer", "type", "bits W/A", "bytes", "in float", title=str(self.path))
        for layer in self.layers:
            bits = (layer.weight_bits, layer.activation_bits)
            shown = "" if min(bits) == FLOAT_BITS else "{}/{}".format(*bits)
            table.add_row(layer.name, layer.type, shown, f"{layer.size_bytes:,}", f"{layer.float_bytes:,}")
        table.add_section()
        share = f"{100 * self.size_bytes / max(self.float_bytes, 1):.1f} % of float"
        table.add_row("tensors", share, "", f"{self.size_bytes:,}", f"{self.float_bytes:,}", style="bold")
        table.add_row("header", "", "", f"{self.header_bytes:,}", "")
        table.add_row("file", "", "", f"{self.file_bytes:,}", "")
        return as_text(table)


@torch.no_grad()
def packed(model: nn.Module, path: str | Path) -> Packed:
    """Write a calibrated model to a packed file, whole or not at all: codes at their true width.

    ``flatbit.load(path)`` makes a model for inference of it, whose outputs equal this one's in eval mode bit for bit.

    Args:
        model: quantized by any policy, on any device; what is float stays so. Pruned and parametrized weights are
            written as what they are computed to, wrapped models as the plain one within.
        path: the file; an existing one is replaced only once the new one is complete.

    Returns:
        Bits and bytes of each layer, and what the float model takes.

    Raises:
        RuntimeError: a quantizer that was never calibrated.
        ValueError: a quantizer that does more than round to its grid, or that is switched off; tied tensors that are
            quantized differently; a state that is no tensor with values.
    """
    with folded(model.modules()):
        contents = _contents(model)
        call = getattr(model, models.BUILD_CALL, None) or getattr(unwrapped(model), models.BUILD_CALL, None)
        specs = {name: layer.spec for name, layer in quantized_layers(model)}
        description = {"build": json.dumps(call), "convention": str(convention(model))}
        description |= describe(specs, contents.codings, contents.counters)
        write_tensors(Path(path), contents.tensors, description)
        return _packed(model, Path(path), contents)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contents:
    """What goes into a file.

    Attributes:
        tensors: by their names in the file.
        codings: of quantized tensors, by name.
        counters: single whole numbers of the state.
        floats: the tensors of the float model.
    """

    tensors: dict[str, Tensor]
    codings: dict[str, Coding]
    counters: dict[str, int]
    floats: dict[str, Tensor]


def _contents(model: nn.Module) -> _Contents:
    state = {name: tensor for name, tensor in state_of(model).items() if f"{QUANTIZER}." not in name}
    counters = {name: int(t) for name, t in state.items() if isinstance(t, Tensor) and is_counter(t) and not t.is_meta}
    floats = {name: tensor for name, tensor in state.items() if name not in counters}
    codings, steps = {}, {}
    coded: dict[int, tuple[Coding, Tensor]] = {}
    tensors = dict(floats)
    known: dict[Quantizer, tuple[Coding, Tensor]] = {}
    for name, layer in quantized_layers(model):
        for slot in slots_of(layer):
            if (quantizer := quantizer_of(layer, slot.name)) is None:
                continue
            key = tensor_name(name, slot.name)
            x = floats[key] if slot.role in ("weight", "bias") else None
            if quantizer not in known:
                known[quantizer] = _grid(quantizer, layer.spec.tensors[slot.name], x)
            codings[key], steps[step_name(key)] = known[quantizer]
            if x is not None:
                tensors[key] = _codes(key, quantizer, codings[key], x, coded)
    _check_tied(floats, codings)
    return _Contents(tensors=tensors | steps, codings=codings, counters=counters, floats=floats)


def _grid(quantizer: Quantizer, spec: TensorSpec, x: Tensor | None) -> tuple[Coding, Tensor]:
    """The grid of a quantizer: what codes it, and its step, of ``step_shape``.

    Raises ValueError where the quantizer does more than round to that grid.
    """
    values = torch.zeros(1, 1, device=quantizer.bits.device) if x is None else x
    grid = quantizer.grid(values)
    rows = grid.step.numel() // quantizer.num_steps  # that share a step
    step = (grid.step[::rows] if rows > 1 else grid.step).reshape(quantizer.step_shape).contiguous()
    coding = Coding(
        bits=quantizer.bit_width(),
        offset=grid.offset,
        low=grid.low,
        high=grid.high,
        ties=quantizer.ties,
        shape=None if x is None else tuple(x.shape),
    )
    fixed = FixedGrid(spec, quantizer.site, coding).to(step)
    fixed.step.copy_(step)
    probe = between_levels(grid.low, grid.high, grid.offset, step) if x is None else quantizer(x)
    if not torch.equal(fixed(probe), quantizer(probe) if x is None else probe):
        raise ValueError(
            f"{quantizer.site}: method {quantizer.method!r} gives other values than its grid {grid} (its step follows "
            "its input, something is done to it first, or it is switched off): a packed file holds grids only"
        )
    return coding, step


def _codes(
    key: str, quantizer: Quantizer, coding: Coding, x: Tensor, coded: dict[int, tuple[Coding, Tensor]]
) -> Tensor:
    """The bytes of a tensor's codes; those of an earlier name where it is one tensor. Raises ValueError."""
    made = coding, packed_codes(quantizer.codes(x), coding)
    before = coded.setdefault(x.data_ptr(), made)
    if before[0] != made[0] or not torch.equal(before[1], made[1]):
        raise ValueError(f"{key} is one tensor with another layer's and has other codes there: give each its own")
    return before[1]


def _check_tied(floats: Mapping[str, Tensor], codings: Mapping[str, Coding]) -> None:
    """Raise ValueError where a tensor is quantized under one name and float under another."""
    held = {floats[name].data_ptr(): name for name in codings if name in floats and floats[name].numel()}
    for name, tensor in floats.items():
        if name not in codings and tensor.numel() and (other := held.get(tensor.data_ptr())) is not None:
            raise ValueError(f"{name} is the tensor of {other}, which is quantized, and is float itself: untie them")


def _packed(model: nn.Module, path: Path, contents: _Contents) -> Packed:
    sizes, floats = (_bytes_of(distinct(held)[0]) for held in (contents.tensors, contents.floats))
    layers = []
    for name, module in named_modules(model):
        if name in sizes:
            bits = bits_of(module) if is_weighted(module) else (FLOAT_BITS, FLOAT_BITS)
            layers.append(
                PackedLayer(
                    name=name,
                    type=type(module).__name__,
                    weight_bits=bits[0],
                    activation_bits=bits[1],
                    size_bytes=sizes[name],
                    float_bytes=floats[name],
                )
            )
    return Packed(path=path, layers=tuple(layers), header_bytes=path.stat().st_size - sum(sizes.values()))


def _bytes_of(tensors: Mapping[str, Tensor]) -> Counter[str]:
    """Bytes by the layer that the tensors are of."""
    sizes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        owner = name.rpartition(".")[0]
        sizes[owner.rpartition(".")[0] if owner.endswith(QUANTIZER) else owner] += (
            tensor.numel() * tensor.element_size()
        )
    return sizes
