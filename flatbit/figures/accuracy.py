"""Pictures of accuracy: against cost, and as it was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from .style import COLORS, MUTED, canvas, describe, finish, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_against_cost(
    points: Sequence[tuple[str, str, float, float, float | None]], *, x_label: str, y_label: str, title: str
) -> Figure:
    """Accuracy over cost on a logarithmic axis, one mark per model with its spread.

    Args:
        points: (method, label, cost, accuracy in percent, standard deviation or None).
        x_label, y_label: what cost and accuracy are, with their units.
        title: of the figure.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = canvas(6.6, 4.0)
    methods = list(dict.fromkeys(point[0] for point in points))
    for index, (color, method) in enumerate(zip(cycle(COLORS), methods, strict=False)):
        own = sorted((p for p in points if p[0] == method), key=lambda p: p[2])
        cost, top1 = [p[2] for p in own], [p[3] for p in own]
        spread = [p[4] or 0.0 for p in own]
        axes.errorbar(
            cost, top1, yerr=spread, color=color, marker="o", markersize=6, linewidth=1.4, capsize=3, label=method
        )
        for _, label, x, y, _ in own:  # beside a line that rises; every other method's above, lest equal points meet
            place, side = ((-6, 6), "right") if index % 2 else ((6, -12), "left")
            axes.annotate(label, (x, y), xytext=place, textcoords="offset points", ha=side, fontsize=8, color=color)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.14, y=0.16)
    describe(axes, title, x_label, y_label)
    axes.legend(frameon=False, loc="best", fontsize=8.5, labelcolor=MUTED)
    return figure


def learning_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[Sequence[float]]]], *, title: str, y_label: str
) -> Figure:
    """One panel per stage: a thin line per seed over epochs, and their mean.

    Args:
        curves: per stage, the epochs that were looked at, and per seed one value for each.
        title, y_label: of the figure and its vertical axes.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    shown = {name: (epochs, np.asarray(values, dtype=float)) for name, (epochs, values) in curves.items() if epochs}
    figure, grid = panels(len(shown), min(3, len(shown)), 2.9, 2.1)
    for axes, (name, (epochs, values)), color in zip(grid, shown.items(), cycle(COLORS), strict=False):
        axes.plot(epochs, values.T, color=color, linewidth=0.8, alpha=0.4)
        axes.plot(epochs, values.mean(0), color=color, linewidth=1.8, marker="o" if len(epochs) < 3 else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5) if len(epochs) > 1 else FixedLocator(epochs))
        describe(axes, name, "epoch", y_label)
    finish(figure, title)
    return figure
