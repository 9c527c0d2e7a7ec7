"""Pictures of planes through three models: loss and accuracy, with the models on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.plane import LossPlane, loss_plane
from . import ANALYSES
from .style import INK, contours, describe, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {"o": 11, "s": 8, "^": 5.5}  # with their sizes: all are seen where they meet
WIDTH, LOWEST, HIGHEST = 3.0, 0.3, 1.2  # inches of a surface, and its height to it
SPLITS = {"train": "training", "test": "test"}


def plane_figure(result: LossPlane, *, title: str) -> Figure:
    """Loss above, accuracy below, on training and test images; a mark at each model.

    Args:
        result: from ``loss_plane``.
        title: of the figure.
    """
    height = WIDTH * float(np.clip(np.ptp(result.y) / np.ptp(result.x), LOWEST, HIGHEST))
    figure, grid = panels(4, 2, WIDTH + 0.9, height + 0.8)
    counts = {"train": result.num_train, "test": result.num_test}
    cells = [(what, split) for what in ("loss", "accuracy") for split in SPLITS]
    for axes, (what, split) in zip(grid, cells, strict=True):
        surface = result.surface[f"{split}_{what}"]
        contours(axes, result.x, result.y, surface, [surface], loss=what == "loss")
        _mark(axes, result)
        unit = ", %" if what == "accuracy" else ""
        words = f"{what}{unit}, {counts[split]:,} {SPLITS[split]} images"
        describe(axes, words, "distance, circle to square", "distance, across")
    finish(figure, title, note=_note(result))
    return figure


def _mark(axes: Axes, result: LossPlane) -> None:
    for (x, y), (mark, size) in zip(result.corners, MARKS.items(), strict=True):
        axes.plot(x, y, mark, color="white", markeredgecolor=INK, markersize=size)


def _note(result: LossPlane) -> str:
    shapes = dict(zip(MARKS, ("circle", "square", "triangle"), strict=True))
    models = "; ".join(
        f"{shapes[mark]}: {shorten(name)}, {result.at_models['test_accuracy'][i]:.2f} % on the test images"
        for i, (mark, name) in enumerate(zip(MARKS, result.names, strict=True))
    )
    steps = ", at steps fitted to it" if result.refitted else ""
    points = {
        "quantized": f"Every point is a latent weight, rounded{steps}.",
        "float": "Every point is a float weight between quantized ones; none is rounded.",
    }[result.weights]
    statistics = f"Batch-norm statistics of each from {result.num_train:,} training images."
    return f"{models[0].upper()}{models[1:]}. Darker is better. {points} {statistics}"


ANALYSES.add("plane", loss_plane, plane_figure, several=True)
