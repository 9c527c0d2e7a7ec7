"""Pictures of weights: each layer's histogram, with the levels that it is rounded to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..analysis.weights import WeightHistograms, weight_histograms
from . import ANALYSES
from .style import COLORS, describe, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_LEVELS = 16
FEW_LAYERS = 12
LATENT = "#c9d7e6"
NOTE = (
    "Blue: the latent weights, which training moves. Orange: the levels they are rounded to, as high as the share of "
    "weights at each; ticks below where there are many. Each is scaled to its own top."
)


def weight_panels(result: WeightHistograms, *, title: str, note: str = NOTE) -> Figure:
    """One panel per layer: the latent weights, and the levels with the share of weights at each.

    More than 16 levels are ticks below the histogram.

    Args:
        result: from ``weight_histograms``, of one layer or more.
        title, note: of the figure, above and below.
    """
    count = len(result.layers)
    figure, grid = panels(count, min(count, 3) if count <= FEW_LAYERS else 6, 2.9, 1.9)
    for axes, histogram in zip(grid, result.layers, strict=True):
        share = histogram.counts / max(histogram.counts.sum(), 1)
        axes.stairs(share / share.max(), histogram.edges, fill=True, color=LATENT)
        if histogram.num_levels <= FEW_LEVELS:
            heights = histogram.occupancy / histogram.occupancy.max()
            axes.vlines(histogram.levels, 0, heights, color=COLORS[1], linewidth=1.6)
            axes.plot(histogram.levels, heights, "o", color=COLORS[1], markersize=3.5)
        else:
            below = np.full(histogram.num_levels, -0.04)
            axes.plot(histogram.levels, below, "|", color=COLORS[1], markersize=3)
        axes.set_yticks([])
        describe(axes, f"{shorten(histogram.layer, 24)}  ({histogram.num_levels} levels)", "", "")
    finish(figure, title, note=note)
    return figure


def _of_quantized(model: nn.Module, _data: object) -> WeightHistograms:
    """Latent weights of every quantized layer, and the levels they are rounded to.

    Raises ValueError for a model without any.
    """
    result = weight_histograms(model)
    if not result.layers:
        raise ValueError(
            f"weights: {type(model).__name__} has no layer with quantized weights: expected one or more: quantize the "
            "model first, or name a quantized stage of its run"
        )
    return result


ANALYSES.add("weights", _of_quantized, weight_panels, needs_data=False)
