"""Pictures of segmentation: images, the truth, and what networks make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..analysis.segmentation import Segments, segments
from ..data.batches import VOID, Data
from . import ANALYSES
from .style import INK, MUTED, drawable, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, KEY, LETTER, ROW = 1.9, 0.45, 0.066, 0.17  # inches: a picture; a key without its name, a letter, a line


def segment_gallery(result: Segments, *, title: str) -> Figure:
    """One row per image: the input, the truth, and what each network says; void is white.

    Args:
        result: from ``segments``.
        title: of the figure.
    """
    from matplotlib.patches import Patch

    maps: dict[str, np.ndarray] = {"truth": result.truth, **result.answers}
    palette = _palette(len(result.class_names))
    columns = {"input": drawable(result.pictures)} | {
        name: palette[np.minimum(labels, len(palette) - 1)] for name, labels in maps.items()
    }
    seen = sorted({int(label) for labels in maps.values() for label in np.unique(labels)} - {VOID})
    keys = [Patch(color=palette[i], label=result.class_names[i]) for i in seen if i < len(result.class_names)]
    longest = max((len(str(key.get_label())) for key in keys), default=0)
    in_a_row = max(1, int(WIDTH * len(columns) / (KEY + LETTER * longest)))
    below = ROW * (-(-len(keys) // in_a_row) + 0.5)
    count, (height, width) = len(result.truth), result.truth.shape[1:]
    figure, grid = panels(count * len(columns), len(columns), WIDTH, WIDTH * height / width + (0.2 + below) / count)
    for index, axes in enumerate(grid):
        name, row = list(columns)[index % len(columns)], index // len(columns)
        axes.imshow(columns[name][row], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        if row == 0:
            axes.set_title(shorten(name, 24), fontsize=9, color=INK)
    finish(figure, title, below=below)
    place = {"loc": "lower center", "ncols": max(1, min(in_a_row, len(keys)))}
    figure.legend(handles=keys, fontsize=7.5, labelcolor=MUTED, frameon=False, **place)
    return figure


def _palette(classes: int) -> np.ndarray:
    """(classes + 1, 3) colours that differ, white for void at the end."""
    import matplotlib as mpl

    pairs, more = (mpl.colormaps[name].colors for name in ("tab20", "tab20b"))  # type: ignore[attr-defined]
    colors = [*pairs[::2], *pairs[1::2], *more]  # strong ones first: neighbours in a pair are one hue
    return np.array([*(colors * (classes // len(colors) + 1))[:classes], (1.0, 1.0, 1.0)])


def _of_one(model: nn.Module, data: Data) -> Segments:
    """What a model makes of the first test images, pixel by pixel."""
    return segments({"net": model}, data)


ANALYSES.add("segmentation", _of_one, segment_gallery)
