"""Pictures of planes through three models: loss and accuracy, with the models on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..analysis.plane import LossPlane, loss_plane
from . import ANALYSES
from .style import INK, contours, describe, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = "os^"
PANELS = {
    "train_loss": "loss, {:,} training images",
    "test_loss": "loss, {:,} test images",
    "train_accuracy": "accuracy, %, {} images",
    "test_accuracy": "accuracy, %, {} images",
}


def plane_figure(result: LossPlane, *, title: str) -> Figure:
    """Loss above, accuracy below, on training and test images; a mark at each model.

    Args:
        result: from ``loss_plane``.
        title: of the figure.
    """
    figure, grid = panels(len(PANELS), 2, 3.9, 3.2)
    counts = {"train": result.num_train, "test": result.num_test}
    for axes, (name, words) in zip(grid, PANELS.items(), strict=True):
        surface = result.surface[name]
        contours(axes, result.x, result.y, surface, [surface], loss=name.endswith("loss"))
        _mark(axes, result)
        split = name.partition("_")[0]
        describe(axes, words.format(counts[split]), "distance, circle to square", "distance, across")
    finish(figure, title, note=_note(result))
    return figure


def _mark(axes: Axes, result: LossPlane) -> None:
    for (x, y), mark in zip(result.corners, MARKS, strict=True):
        axes.plot(x, y, mark, color="white", markeredgecolor=INK, markersize=7, clip_on=False)


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
