"""The style of every figure: its colours, frames and titles, and how it becomes a file."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2733", "#66727f", "#e3e8ee"
COLORS = ("#1f6fb4", "#d1622b", "#2f9464", "#8a5bb0", "#b03a52", "#7a6a3a")
RIGHT, WRONG = COLORS[2], "#c02929"
TITLE, LINE, MARGIN = 0.36, 0.16, 0.1  # inches: what a title takes, a line of a note, and the white around
LETTERS = 15  # of a note, to the inch
LEVELS = 16  # of contours


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour per name, in order: one for a method in every picture that shows it."""
    return dict(zip(dict.fromkeys(names), cycle(COLORS), strict=False))


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, of a width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes in rows of ``columns``, each of a width and height in inches, and room for a title."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + TITLE))
    grid = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    return figure, grid


def finish(figure: Figure, title: str, *, note: str = "", below: float = 0.0) -> None:
    """Title at the upper left, note at the lower left, and the panels laid out between them.

    Args:
        figure: with all its panels.
        title: its middle is left out where it is too long; "" leaves its room to the panels.
        note: what colours and marks mean; broken into lines.
        below: what else is to stay free below the panels, in inches.
    """
    width, height = figure.get_size_inches()
    left = {"x": MARGIN / width, "ha": "left"}
    said = figure.suptitle(title, y=1 - MARGIN / height, va="top", color=INK, fontsize=11, fontweight="bold", **left)
    said.set_in_layout(False)
    room, longest = (1 - 2 * MARGIN / width) * figure.bbox.width, len(title)
    while longest > 3 and (share := room / said.get_window_extent().width) < 1:
        longest = int(share * longest)
        said.set_text(shorten(title, longest))
    lines = textwrap.wrap(note, int(LETTERS * width))
    figure.text(y=MARGIN / height, s="\n".join(lines), va="bottom", color=MUTED, fontsize=8, **left)
    below += LINE * len(lines) + (MARGIN / 2 if lines else 0)
    top = 1 - (TITLE - MARGIN) / height if title else 1
    for _ in range(2):  # ticks change with the room that they have
        figure.tight_layout(pad=0.6, h_pad=0.9, rect=(0, below / height, 1, top))


def describe(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels and the house's quiet frame."""
    axes.set_title(title, fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=8.5, color=MUTED)
    axes.set_ylabel(y_label, fontsize=8.5, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED)
    axes.tick_params(which="minor", color=GRID)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def contours(
    axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, scale: Sequence[np.ndarray], *, loss: bool
) -> None:
    """A surface as filled contours, the darker the better, with a bar of its colours.

    Args:
        axes: to draw on.
        x, y: coordinates, ascending; one unit of either is as long as of the other.
        values: (len(y), len(x)); what is not finite stays white.
        scale: all surfaces that share their levels, this one among them.
        loss: less is better, and levels are at equal ratios; else more is, and they are at equal steps.
    """
    from matplotlib.colors import LogNorm, Normalize

    known = np.concatenate([each[np.isfinite(each)] for each in scale])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    high = high if high > low else low + 1
    by_ratio = loss and low > 0
    levels = (np.geomspace if by_ratio else np.linspace)(low, high, LEVELS)
    shown = axes.contourf(
        x,
        y,
        np.ma.masked_invalid(values).clip(levels[0], levels[-1]),
        levels=levels,
        norm=(LogNorm if by_ratio else Normalize)(low, high),
        cmap="viridis" if loss else "viridis_r",
    )
    axes.set_aspect("equal")
    assert axes.figure is not None
    bar = axes.figure.colorbar(shown, cax=axes.inset_axes((1.03, 0, 0.04, 1)), ticks=levels[:: LEVELS // 5])
    bar.ax.set_yticklabels([f"{level:.{3 if loss else 4}g}" for level in levels[:: LEVELS // 5]])
    bar.ax.tick_params(labelsize=7.5, colors=MUTED)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def shorten(text: str, longest: int = 38) -> str:
    """The text, its middle left out where it is too long for its place."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def drawable(images: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W) as matplotlib wants them: (n, H, W) where grey, (n, H, W, 3) where coloured."""
    return images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)


def to_svg(figure: Figure, alt: str = "") -> str:
    """The figure as an ``<svg>`` element, text as outlines, without date or identifiers of the run.

    Args:
        figure: any.
        alt: what it shows, in words, for those who do not see it; its title where none is given.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "flatbit", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    _, tag, rest = buffer.getvalue().partition("<svg")
    return f'{tag} role="img" aria-label="{escape(alt or figure.get_suptitle())}"{rest}'


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
