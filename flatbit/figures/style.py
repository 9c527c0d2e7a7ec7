"""Figures: each function takes results and returns a matplotlib figure. ``rates`` and ``maps`` draw in this style."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..analysis.mistakes import Misread
from ..analysis.segmentation import Segments
from ..analysis.weights import WeightHistogram
from ..atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2733", "#66727f", "#e3e8ee"
MOST_MISREAD = 18
COLORS = ("#1f6fb4", "#d1622b", "#2f9464", "#8a5bb0", "#b03a52", "#7a6a3a")


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

    figure, axes = _canvas(6.6, 4.0)
    methods = list(dict.fromkeys(point[0] for point in points))
    for index, (color, method) in enumerate(zip(_cycle(), methods, strict=False)):
        own = sorted((p for p in points if p[0] == method), key=lambda p: p[2])
        cost, top1 = [p[2] for p in own], [p[3] for p in own]
        spread = [p[4] or 0.0 for p in own]
        axes.errorbar(
            cost, top1, yerr=spread, color=color, marker="o", markersize=6, linewidth=1.4, capsize=3, label=method
        )
        for _, label, x, y, _ in own:  # every other method's labels above, so that equal points stay legible
            place = (6, 6) if index % 2 else (6, -12)
            axes.annotate(label, (x, y), xytext=place, textcoords="offset points", fontsize=8, color=color)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.14, y=0.16)
    describe(axes, title, x_label, y_label)
    axes.legend(frameon=False, loc="best")
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
    columns = min(3, len(shown))
    figure, grid = panels(len(shown), columns, 2.9, 2.1)
    for axes, (name, (epochs, values)), color in zip(grid, shown.items(), _cycle(), strict=False):
        axes.plot(epochs, values.T, color=color, linewidth=0.8, alpha=0.4)
        axes.plot(epochs, values.mean(0), color=color, linewidth=1.8, marker="o" if len(epochs) < 3 else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5) if len(epochs) > 1 else FixedLocator(epochs))
        describe(axes, name, "epoch", y_label)
    figure.suptitle(title, color=INK, fontsize=11, x=0.01, ha="left", fontweight="bold")
    figure.tight_layout()
    return figure


def weight_panels(histograms: Sequence[WeightHistogram], *, title: str) -> Figure:
    """One panel per layer: the latent weights, and the levels with the share of weights at each."""
    columns = min(3, len(histograms))
    figure, grid = panels(len(histograms), columns, 2.9, 1.9)
    for axes, histogram in zip(grid, histograms, strict=False):
        share = histogram.counts / max(histogram.counts.sum(), 1)
        axes.stairs(share / share.max(), histogram.edges, fill=True, color="#c9d7e6")
        if len(histogram.levels) <= 16:
            top = histogram.occupancy.max()
            axes.vlines(histogram.levels, 0, histogram.occupancy / top, color=COLORS[1], linewidth=1.6)
            axes.plot(histogram.levels, histogram.occupancy / top, "o", color=COLORS[1], markersize=3.5)
        else:
            axes.plot(histogram.levels, np.full(len(histogram.levels), -0.04), "|", color=COLORS[1], markersize=3)
        axes.set_yticks([])
        describe(axes, f"{histogram.layer}  ({len(histogram.levels)} levels)", "", "")
    figure.suptitle(title, color=INK, fontsize=11, x=0.01, ha="left", fontweight="bold")
    figure.tight_layout()
    return figure


def misread_gallery(
    result: Misread, images: np.ndarray, names: Sequence[str], *, first: str, second: str, most: int = MOST_MISREAD
) -> Figure:
    """The images that either network gets wrong, with the truth and what each says; wrong answers in red.

    Args:
        result: from ``misread``.
        images: those of ``result.index``, at least the first ``most``: (n, H, W) or (n, H, W, 3).
        names: of the classes.
        first, second: names of the two networks.
        most: how many images at most.
    """
    shown = min(most, len(result.index))
    if not shown:
        figure, axes = _canvas(6.6, 0.8)
        axes.axis("off")
        axes.text(0, 0.5, f"Neither network misreads any of {result.num_samples} images.", color=INK)
        return figure
    figure, grid = panels(shown, min(9, shown), 1.15, 1.75)
    for axes, i in zip(grid, range(shown), strict=False):
        axes.imshow(images[i], cmap="gray_r", interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        truth = result.labels[i]
        axes.set_title(f"is {_name(names, truth)}", fontsize=9, color=INK)
        for line, (network, said) in enumerate(((first, result.first[i]), (second, result.second[i]))):
            color = COLORS[2] if said == truth else "#c02929"
            text = f"{network}: {_name(names, said)}"
            axes.text(0.5, -0.16 - 0.2 * line, text, transform=axes.transAxes, ha="center", fontsize=8, color=color)
    figure.tight_layout()
    return figure


def _name(names: Sequence[str], label: int) -> str:
    """A class's name; its number where a network has more outputs than the data have classes."""
    return names[label] if label < len(names) else str(label)


def segment_gallery(result: Segments, images: np.ndarray, names: Sequence[str]) -> Figure:
    """One row per image: the input, the truth, and what each network says; void is white.

    Args:
        result: from ``segments``.
        images: the inputs, (n, H, W) or (n, H, W, 3).
        names: of the classes, for the key below.
    """
    from matplotlib.patches import Patch

    columns: dict[str, np.ndarray] = {"input": images, "truth": result.truth, **result.answers}
    height, width = result.truth.shape[1:]
    figure, grid = panels(len(images) * len(columns), len(columns), 1.9, 1.9 * height / width + 0.25)
    palette = _palette(len(names))
    for index, axes in enumerate(grid):
        name, row = list(columns)[index % len(columns)], index // len(columns)
        picture = columns[name][row]
        axes.imshow(picture if name == "input" else palette[np.where(picture < len(names), picture, len(names))])
        axes.set_xticks([])
        axes.set_yticks([])
        if row == 0:
            axes.set_title(name, fontsize=9, color=INK)
    keys = [Patch(color=color, label=label) for color, label in zip(palette, names, strict=False)]
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.legend(handles=keys, loc="lower center", ncols=min(8, len(names)), fontsize=7.5, frameon=False)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element, text as outlines, without date or identifiers of the run."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "flatbit", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``.png`` or ``.svg``, whole or not at all. Raises ValueError for another ending."""
    check_ending(path)
    with replacing(path) as partial:
        if path.suffix == ".svg":
            partial.write_text(to_svg(figure))
        else:
            figure.savefig(partial, format="png", dpi=160)


def check_ending(path: Path) -> None:
    """Raise ValueError unless ``write_figure`` can write such a file."""
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path}: expected a name that ends in .png or .svg")


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes in rows of ``columns``, each of a width and height in inches."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.4))
    grid = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    return figure, grid


def describe(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels and the house's quiet frame."""
    axes.set_title(title, fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=8.5, color=MUTED)
    axes.set_ylabel(y_label, fontsize=8.5, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _palette(classes: int) -> np.ndarray:
    """(classes + 1, 3) colours that differ, white for void at the end."""
    import matplotlib as mpl

    colors = [*mpl.colormaps["tab20"].colors, *mpl.colormaps["tab20b"].colors]  # type: ignore[attr-defined]
    return np.array([*(colors * (classes // len(colors) + 1))[:classes], (1.0, 1.0, 1.0)])


def _cycle() -> list[str]:
    return [*COLORS] * 8
