"""Pictures of a search: bits per layer (SAQ, Figures A and B), and the frontier with the uniform nets on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..search.allocation import Allocation
from .style import COLORS, MUTED, describe, finish, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bits_figure(bits: Mapping[str, int], uniform: Mapping[str, int], *, title: str) -> Figure:
    """The width of every choice in the order in which they run, and the uniform net's as a line.

    Args:
        bits: by name.
        uniform: of the net that costs as much, by the same names.
        title: of the figure.
    """
    figure, (axes,) = panels(1, 1, max(5.6, 0.28 * len(bits)), 3.0)
    places = range(len(bits))
    axes.bar(places, list(bits.values()), color=COLORS[0], width=0.7)
    axes.step([-0.5, *(place + 0.5 for place in places)], [*uniform.values(), [*uniform.values()][-1]], where="post",
              color=MUTED, linewidth=1.0, linestyle="--", label="uniform")  # fmt: skip
    axes.set_xticks(list(places), list(bits), rotation=90, fontsize=7)
    axes.set_yticks(range(0, max(*bits.values(), *uniform.values()) + 1))
    axes.legend(frameon=False, fontsize=8)
    describe(axes, "weights and activations of each layer", "", "bits")
    finish(figure, title)
    return figure


def frontier_figure(
    frontier: Sequence[Allocation],
    uniform: Mapping[int, tuple[float, float]],
    chosen: tuple[float, float],
    *,
    title: str,
    measure: str,
) -> Figure:
    """Every allocation that none beats, the uniform nets, and the chosen one, over bit-operations.

    Args:
        frontier: from the cheapest on.
        uniform: millions of bit-operations and measure of each uniform net, by its bits.
        chosen: the same of the chosen one.
        title: of the figure.
        measure: what is drawn, in words.
    """
    figure, (axes,) = panels(1, 1, 5.6, 3.4)
    axes.step([each.price.bitops / 1e6 for each in frontier], [each.loss for each in frontier], where="post",
              color=COLORS[0], linewidth=1.5, label=f"best of all ({len(frontier)})")  # fmt: skip
    axes.plot(*zip(*uniform.values(), strict=True), "o", color=COLORS[1], markersize=5, label="uniform")
    for bits, (x, y) in uniform.items():
        axes.annotate(f"{bits}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.plot(*chosen, "*", color=COLORS[2], markersize=10, label="chosen")
    axes.legend(frameon=False, fontsize=8)
    describe(axes, f"{measure} against cost", "millions of bit-operations of one image", measure)
    finish(figure, title)
    return figure
