"""Pictures of schedules: the learning rate and the samples per update of every stage of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..analysis.schedules import Curve
from .style import COLORS, MUTED, describe, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def schedule_figure(curves: Sequence[Curve], *, title: str) -> Figure:
    """One panel per stage that trains: its learning rate over epochs, captures marked, and its batch.

    A batch that grows has a curve of its own on the right axis; one that stays is said above its panel.
    Raises ValueError where no stage trains.

    Args:
        curves: from ``schedule_curves``.
        title: of the figure.
    """
    shown = [curve for curve in curves if curve.epochs]
    if not shown:
        raise ValueError(f"{title}: nothing to draw: expected a stage with epochs, got 0 in every one: give it epochs")
    figure, grid = panels(len(shown), min(2, len(shown)), 4.8, 2.3)
    for axes, curve in zip(grid, shown, strict=True):
        _rate(axes, curve)
        if len(curve.batches) > 1:
            _growing_batch(axes, curve)
    finish(figure, title)
    return figure


def _rate(axes: Axes, curve: Curve) -> None:
    """The learning rate, and where the model is captured."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    _steps(axes, curve, curve.lr, COLORS[0])
    if curve.captures:
        axes.plot(curve.captures, curve.capture_lr, "o", color=COLORS[1], markersize=3, label="capture", zorder=3)
        place = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.97)}  # above the panel: cycles fill it
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, handletextpad=0.1, **place)
    axes.set_yscale("log" if curve.is_wide else "linear")
    axes.set_ylim(bottom=None if curve.is_wide else 0)
    batch = f", batch {curve.batch[0]}" if len(curve.batches) == 1 else ""
    describe(axes, f"{shorten(curve.stage)}{batch}", "epoch", "learning rate")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.yaxis.label.set_color(COLORS[0])


def _growing_batch(axes: Axes, curve: Curve) -> None:
    """The samples of one update on an axis of their own, one tick per size."""
    right = axes.twinx()
    _steps(right, curve, curve.batch, COLORS[2])
    sizes = sorted({*curve.batches.values()})
    right.set_yscale("log", base=2)
    right.set_yticks(sizes, [str(size) for size in sizes])
    right.minorticks_off()
    describe(right, "", "", "samples per update")
    right.grid(visible=False)
    right.yaxis.label.set_color(COLORS[2])


def _steps(axes: Axes, curve: Curve, values: np.ndarray, color: str) -> None:
    times, heights = [*curve.epoch, curve.epochs], [*values, values[-1]]
    axes.plot(times, heights, color=color, linewidth=1.3, drawstyle="steps-post")
