"""The grids of a whole model, by layer: what packing, export and averaging read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .grid import Grid
from .reparametrized import folded
from .table import quantized_layers, quantizer_of, slots_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerGrids:
    """The grids of one layer's quantized tensors, by slot.

    Attributes:
        tensors: the others are float.
    """

    tensors: Mapping[str, Grid] = field(default_factory=dict)

    @property
    def weight(self) -> Grid | None:
        """Of the tensor ``weight``; None where it is float."""
        return self.tensors.get("weight")

    @property
    def bias(self) -> Grid | None:
        """Of the tensor ``bias``."""
        return self.tensors.get("bias")

    @property
    def input(self) -> Grid | None:
        """Of the input."""
        return self.tensors.get("input")

    @property
    def output(self) -> Grid | None:
        """Of the output."""
        return self.tensors.get("output")


def grids(model: nn.Module) -> dict[str, LayerGrids]:
    """The grids of every quantized layer, by name. Raises RuntimeError for a quantizer without a step."""
    layers = dict(quantized_layers(model))
    with folded(layers.values()):
        return {name: _layer_grids(layer) for name, layer in layers.items()}


def _layer_grids(layer: nn.Module) -> LayerGrids:
    found = {}
    for slot in slots_of(layer):
        if (quantizer := quantizer_of(layer, slot.name)) is not None:
            # An activation's grid does not depend on the values: LSQ+'s gradient scale alone asks for some.
            x = torch.zeros(1, 1, device=quantizer.bits.device)
            found[slot.name] = quantizer.grid(getattr(layer, slot.name) if slot.role in ("weight", "bias") else x)
    return LayerGrids(tensors=found)
