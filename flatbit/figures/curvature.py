"""Pictures of curvature: the Hessian's top eigenvalue, as power iteration finds it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from torch import nn

from ..analysis.curvature import Hessian, hessian
from ..data.batches import Data
from . import ANALYSES
from .style import COLORS, MUTED, describe, finish, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH, NUM_BATCHES = 50, 10
"""Of the images that the loss is the mean over: SAQ takes 500; more at a time would not fit where images are large."""


def hessian_figure(result: Hessian, *, title: str) -> Figure:
    """The estimate of the eigenvalue after every iteration, and where it came to.

    Args:
        result: from ``hessian``.
        title: of the figure.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = panels(1, 1, 5.6, 2.8)
    iterations = range(1, result.iterations + 1)
    axes.axhline(result.eigenvalue, color=MUTED, linewidth=0.8, linestyle=":")
    axes.plot(iterations, result.estimates, color=COLORS[0], linewidth=1.5, marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    state = "settled" if result.converged else "not settled"
    found = f"{result.eigenvalue:.4g}, {state} after {result.iterations} iterations, {result.num_samples:,} samples"
    describe(axes, f"top eigenvalue {found}", "iteration", "estimate")
    finish(figure, title)
    return figure


def _on_training_images(model: nn.Module, data: Data) -> Hessian:
    """The top Hessian eigenvalue of the loss over 500 training samples.

    They are not augmented, and the first in the order of seed 0; all where there are fewer.
    """
    return hessian(model, islice(data.train_batches(BATCH, seed=0, augment=False), NUM_BATCHES))


ANALYSES.add("curvature", _on_training_images, hessian_figure)
