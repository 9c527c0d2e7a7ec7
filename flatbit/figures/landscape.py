"""Pictures of loss landscapes: surfaces on one scale, and slices through their middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..analysis.landscape import Landscapes, loss_landscape
from . import ANALYSES
from .style import COLORS, INK, contours, describe, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
SPLITS = {"train": "training", "test": "test"}
NOTE = (
    "Along two random directions, in which at 1 every filter moves by its own norm; added after rounding, "
    "batch-norm statistics as they are. "
    "One scale for all, darker is less; the cross is the model itself. Slices: solid along the first direction, "
    "dashed along the second."
)


def landscape_figure(result: Landscapes, *, title: str) -> Figure:
    """The loss surface of every model on one scale, then slices of all through the middle.

    Args:
        result: from ``loss_landscape``.
        title: of the figure.
    """
    count = len(result.models) + 1
    figure, grid = panels(count, 2 if count == 4 else min(count, COLUMNS), 3.7, 3.1)
    losses = [model.loss for model in result.models]
    middle = len(result.steps) // 2
    for axes, model in zip(grid, result.models, strict=False):
        contours(axes, result.steps, result.steps, model.loss, losses, loss=True)
        axes.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=1.6)
        found = f"{shorten(model.name, 24)}: loss {model.at_the_weights:.3g}"
        describe(axes, found, "first direction", "second direction")
    slices = grid[-1]
    for index, model in enumerate(result.models):
        color = COLORS[index % len(COLORS)]
        slices.plot(result.steps, model.loss[middle], color=color, linewidth=1.6, label=shorten(model.name, 24))
        slices.plot(result.steps, model.loss[:, middle], color=color, linewidth=1.2, linestyle="--")
    slices.set_yscale("log")
    slices.legend(fontsize=7.5, frameon=False, labelcolor=INK)
    describe(slices, f"slices, {result.num_images:,} {SPLITS[result.split]} images", "step", "loss")
    finish(figure, title, note=NOTE)
    return figure


ANALYSES.add("landscape", loss_landscape, landscape_figure, several=True)
