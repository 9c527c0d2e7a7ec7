"""The grid on which the mean of n captures of one weight lies: that of the captures, at step/n.

Each capture is ``step * (code + offset)``, so the mean is ``(step/n) * (sum of codes + n * offset)``.
``n * offset`` is whole, which is a mid-tread grid, or half odd, which is a mid-rise one.
"""

from __future__ import annotations

import torch

from ..quant.grid import Grid
from ..quant.quantizer import MAX_BITS, Quantizer
from ..quant.spec import TensorSpec

LARGEST = 2 ** (MAX_BITS - 1) - 0.5  # steps from zero to the last level of the widest symmetric grid


def mean_spec(grid: Grid, count: int) -> TensorSpec:
    """The narrowest symmetric grid that holds every mean of ``count`` captures.

    n = 3, 7, 15, 31 ternary captures take 3, 4, 5, 6 bits (SQWA). The outermost mean lies ``count *
    reach`` steps from zero: its whole part takes ``bit_length`` bits, and the sign one more.
    """
    levels = "midrise" if count * grid.offset % 1 else "midtread"
    return TensorSpec(method="sqwa", bits=int(count * _reach(grid)).bit_length() + 1, options={"grid": levels})


def capacity(grid: Grid) -> int:
    """How many captures on a grid have a mean of at most 8 bits."""
    return int(LARGEST / _reach(grid))


def check_joins(quantizer: Quantizer, grid: Grid, first: Grid, count: int) -> None:
    """Raise ValueError unless a capture on ``grid`` can join those on ``first`` and make them ``count``."""
    if _in_words(grid) != _in_words(first) or not torch.equal(grid.step, first.step):
        raise ValueError(
            f"{quantizer.site}: capture {count} has the grid {_in_words(grid)}, the first one {_in_words(first)}: "
            f"captures must share one. {_why_it_moved(quantizer)}"
        )
    if count > capacity(grid):
        raise ValueError(
            f"{quantizer.site}: the average of {count} captures on the grid {_in_words(grid)} needs more than "
            f"{MAX_BITS} bits; {capacity(grid)} fit. Take fewer captures, fewer bits, or leave the layer float with "
            f"policy.override({quantizer.site.layer!r}, weights=32)"
        )


def _reach(grid: Grid) -> float:
    """Steps from zero to the outermost level."""
    return max(-grid.low - grid.offset, grid.high + grid.offset)


def _in_words(grid: Grid) -> str:
    """A grid of one step, to the last digit of float32."""
    return f"{grid.step.item():.9g} * ([{grid.low}..{grid.high}] + {grid.offset:g})"


def _why_it_moved(quantizer: Quantizer) -> str:
    if any(True for _ in quantizer.parameters()):
        return (
            "The step is learned and moved: train this stage with fixed_weight_steps, or call "
            "flatbit.train.freeze_weight_steps_(model) before training"
        )
    return (
        f"Method {quantizer.method!r} computes its step from the weights, or the bits were changed: average a method "
        "whose step can be kept (sqwa, uniq, saq, lsq)"
    )
