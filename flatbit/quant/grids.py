"""The grids of a whole model, by layer: what packing, export and averaging read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .grid import Grid
from .layers import quantized_layers
from .quantizer import Quantizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerGrids:
    """The grids of one layer's tensors; None where a tensor is float."""

    weight: Grid | None = None
    bias: Grid | None = None
    input: Grid | None = None
    output: Grid | None = None


def grids(model: nn.Module) -> dict[str, LayerGrids]:
    """The grids of every quantized layer, by name. Raises RuntimeError for a quantizer without a step."""
    return {name: _layer_grids(layer) for name, layer in quantized_layers(model)}


def _layer_grids(layer: nn.Module) -> LayerGrids:
    found = {}
    for slot, quantizer in layer._modules.items():
        if isinstance(quantizer, Quantizer):
            role = slot.removesuffix("_quantizer")
            # An activation's grid does not depend on the values: LSQ+'s gradient scale alone asks for some.
            x = getattr(layer, role) if role in ("weight", "bias") else torch.zeros(1, 1, device=quantizer.bits.device)
            found[role] = quantizer.grid(x)
    return LayerGrids(**found)
