"""Weights against their grid: histograms of latent weights, with the levels and how often each is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..quant.quantizer import Quantizer
from ..quant.reparametrized import folded
from ..quant.table import is_weighted, quantized_layers, quantized_tensors


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightHistogram:
    """One layer's latent weights and the levels they are rounded to.

    Attributes:
        layer: its name.
        edges, counts: the histogram, of what the quantizer rounds (SAQ and DoReFa: after their
            transformation; one step per channel: divided by the channel's step).
        levels: the grid's values on the same axis, ascending.
        occupancy: share of the weights at each level; sums to 1.
    """

    layer: str
    edges: np.ndarray
    counts: np.ndarray
    levels: np.ndarray
    occupancy: np.ndarray

    @property
    def num_levels(self) -> int:
        """How many levels the grid has."""
        return len(self.levels)

    @property
    def levels_used(self) -> int:
        """How many of them some weight takes."""
        return int((self.occupancy > 0).sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightHistograms:
    """The histogram of every layer with quantized weights, in order of definition; none of a float model."""

    layers: tuple[WeightHistogram, ...]


@torch.no_grad()
def weight_histograms(model: nn.Module, bins: int = 80) -> WeightHistograms:
    """Look at the weights of every layer that has quantized ones; ``bins`` of each histogram."""
    found = []
    with folded(layer for _, layer in quantized_layers(model)):
        for name, layer in quantized_layers(model):
            weights = list(quantized_tensors(layer, "weight")) if is_weighted(layer) else []
            for slot, quantizer, weight in weights:
                called = name if len(weights) == 1 else f"{name}.{slot.name}"
                found.append(_histogram(called, quantizer, weight, bins))
    return WeightHistograms(layers=tuple(found))


def _histogram(name: str, quantizer: Quantizer, weight: Tensor, bins: int) -> WeightHistogram:
    grid = quantizer.grid(weight)
    w = quantizer.limited(weight)
    unit = quantizer.site.by_group(grid.step) if grid.step.numel() > 1 else torch.ones(())
    counts, edges = np.histogram((w / unit).flatten().float().cpu().numpy(), bins=bins)
    codes = (grid.codes(quantizer(weight)) - grid.low).flatten()
    step = 1.0 if grid.step.numel() > 1 else float(grid.step)
    return WeightHistogram(
        layer=name,
        edges=edges,
        counts=counts,
        levels=step * (np.arange(grid.low, grid.high + 1) + grid.offset),
        occupancy=codes.bincount(minlength=grid.num_levels).cpu().numpy() / codes.numel(),
    )
