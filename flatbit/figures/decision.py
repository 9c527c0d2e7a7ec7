"""Pictures of planes: decision maps side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..analysis.decision import DecisionMap, decision_map
from . import ANALYSES
from .style import INK, LINE, MUTED, TITLE, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL, ALONE = 1.9, 4.0  # inches
CLASS_COLORS = ("#d9e5f2", "#f4d9c6")
WRONG_COLORS = ("#7ba3cc", "#d9895b")


def decision_panels(rows: Mapping[str, Mapping[str, DecisionMap]], *, title: str, panel: float = PANEL) -> Figure:
    """Decision maps in rows and columns by name: pale where right or outside all regions, strong where wrong.

    Args:
        rows: per row, per column, a map; a row may lack columns.
        title: of the figure.
        panel: side of a map in inches.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    columns = [*dict.fromkeys(name for row in rows.values() for name in row)]
    height = (panel + 0.15) * len(rows) + TITLE + LINE
    figure = Figure(figsize=(panel * len(columns) + 0.7, height))
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
                axes.set_box_aspect(1)
                continue
            found = row[name]
            wrong = (found.truth >= 0) & (found.truth != found.answers)
            shown = np.where(wrong, found.answers + 2, found.answers)
            axes.imshow(
                shown, cmap=colors, vmin=0, vmax=3, origin="lower", extent=found.extent, interpolation="nearest"
            )
            axes.set_title(f"{name}  {found.accuracy:.1f} %", fontsize=8, color=MUTED, pad=3)
    finish(figure, title, note="Pale: right, or in no region. Dark: wrong.")
    return figure


def decision_panel(result: DecisionMap, *, title: str) -> Figure:
    """One decision map, as ``decision_panels`` draws it.

    Args:
        result: from ``decision_map``.
        title: of the figure.
    """
    return decision_panels({"": {"right": result}}, title=title, panel=ALONE)


ANALYSES.add("decision", decision_map, decision_panel)
