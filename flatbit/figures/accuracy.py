"""Pictures of accuracy: against cost, and as it was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .style import MUTED, canvas, describe, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One model in a picture of accuracy against cost.

    Attributes:
        method: has a colour and a word in the legend.
        line: points of one method and line are joined.
        label: what stands beside it: its bits.
        cost: more than 0.
        score, spread: in percent; the standard deviation, or None.
    """

    method: str
    line: int
    label: str
    cost: float
    score: float
    spread: float | None


def accuracy_against_cost(
    points: Sequence[Point], colors: Mapping[str, str], *, x_label: str, y_label: str, title: str
) -> Figure:
    """Accuracy over cost on a logarithmic axis, one mark per model with its spread.

    Args:
        points: one or more.
        colors: by method.
        x_label, y_label: what cost and accuracy are, with their units.
        title: of the figure.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = canvas(4.4, 3.3)
    lines: dict[tuple[str, int], list[Point]] = {}
    for point in sorted(points, key=lambda each: each.cost):
        lines.setdefault((point.method, point.line), []).append(point)
    for (method, _), own in lines.items():
        axes.errorbar(
            [p.cost for p in own], [p.score for p in own], yerr=[p.spread or 0.0 for p in own], color=colors[method],
            marker="o", markersize=6, linewidth=1.4, capsize=3, label=method,
        )  # fmt: skip
    _label(axes, points, colors)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.14, y=0.2)
    describe(axes, title, x_label, y_label)
    marks, names = axes.get_legend_handles_labels()
    legend = {name: mark for mark, name in zip(marks, names, strict=True)}
    order = [method for method in colors if method in legend]
    place = {"loc": "outside lower left", "ncols": len(order)}
    figure.legend([legend[name] for name in order], order, frameon=False, fontsize=8.5, labelcolor=MUTED, **place)
    return figure


def _label(axes: Axes, points: Sequence[Point], colors: Mapping[str, str]) -> None:
    """Each point's label, towards the middle; every other method's above, lest those of equal points meet."""
    middle = math.sqrt(min(p.cost for p in points) * max(p.cost for p in points))
    for point in points:
        right, above = point.cost > middle, [*colors].index(point.method) % 2
        place = {"xytext": (-6 if right else 6, 6 if above else -12), "ha": "right" if right else "left"}
        at, color = (point.cost, point.score), colors[point.method]
        axes.annotate(point.label, at, textcoords="offset points", fontsize=8, color=color, **place)


def learning_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[Sequence[float]]]],
    colors: Mapping[str, str],
    *,
    title: str,
    y_label: str,
) -> Figure:
    """One panel per stage: a thin line per seed over epochs, and their mean.

    Args:
        curves: per stage, the epochs that were looked at, and per seed one value for each.
        colors: by stage.
        title, y_label: of the figure and its vertical axes.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    shown = {name: (epochs, np.asarray(values, dtype=float)) for name, (epochs, values) in curves.items() if epochs}
    figure, grid = panels(len(shown), min(3, len(shown)), 2.9, 2.1)
    for axes, (name, (epochs, values)) in zip(grid, shown.items(), strict=True):
        axes.plot(epochs, values.T, color=colors[name], linewidth=0.8, alpha=0.4)
        axes.plot(epochs, values.mean(0), color=colors[name], linewidth=1.8, marker="o" if len(epochs) < 3 else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5) if len(epochs) > 1 else FixedLocator(epochs))
        describe(axes, shorten(name), "epoch", y_label)
    finish(figure, title)
    return figure
