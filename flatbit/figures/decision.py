"""Pictures of planes: decision maps side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..analysis.decision import DecisionMap
from .style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = 0.45  # inches
CLASS_COLORS = ("#d9e5f2", "#f4d9c6")
WRONG_COLORS = ("#7ba3cc", "#d9895b")


def decision_panels(rows: Mapping[str, Mapping[str, DecisionMap]], *, title: str) -> Figure:
    """Decision maps in rows and columns by name: pale where right or outside all regions, strong where wrong.

    Args:
        rows: per row, per column, a map; a row may lack columns.
        title: of the figure.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    columns = [*dict.fromkeys(name for row in rows.values() for name in row)]
    height = 2.05 * len(rows) + TITLE
    figure = Figure(figsize=(1.9 * len(columns) + 0.7, height))
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    colors = ListedColormap([*CLASS_COLORS, *WRONG_COLORS])
    for (label, row), line in zip(rows.items(), grid, strict=True):
        for name, axes in zip(columns, line, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if name == columns[0]:
                axes.set_ylabel(label, fontsize=8.5, color=INK)
            if name not in row:
                axes.set_frame_on(False)
                continue
            found = row[name]
            wrong = (found.truth >= 0) & (found.truth != found.answers)
            shown = np.where(wrong, found.answers + 2, found.answers)
            axes.imshow(
                shown, cmap=colors, vmin=0, vmax=3, origin="lower", extent=found.extent, interpolation="nearest"
            )
            axes.set_title(f"{name}  {found.accuracy:.1f} %", fontsize=8, color=MUTED, pad=3)
    figure.suptitle(title, color=INK, fontsize=11, x=0.01, y=1 - 0.3 * TITLE / height, ha="left", fontweight="bold")
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 1 - TITLE / height))
    return figure
