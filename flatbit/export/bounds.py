"""How large each result of a program can become, and how far float32 arithmetic may be from it.

Both follow from the grids alone: a quantizer's output lies between its lowest and highest level, so the product that
reads it is bounded by the sum of its weights' magnitudes, and so on. No data are asked, and nothing can overflow.
Where a model is held to its integers on given images, ``sum|x||w|`` of these is tighter.

The error is what the model's own float32 arithmetic may make of the same codes, to first order in
``u = 2^-24``: of a sum of n products at most ``(n + 3) u sum|x||w|`` (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 3.1), of each further operation u of what it handles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .program import (
    INPUT,
    Affine,
    AveragePool,
    Clamp,
    Concat,
    Flatten,
    Operation,
    Pad,
    Product,
    Program,
    Quantize,
    Resize,
    Slice,
    Sum,
)
from .shapes import shapes

U = 2.0**-24
"""Half the distance from 1 to the next float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """Of one result, float64, () or (channels,).

    Attributes:
        size: the largest magnitude.
        error: the largest distance of the model's float32 value from the exact one, for equal codes.
    """

    size: Tensor
    error: Tensor

    def flat(self) -> Bound:
        """The same for all channels."""
        return Bound(self.size.max(), self.error.max())


def bounds(program: Program, sums: Mapping[str, Tensor] | None = None) -> dict[str, Bound]:
    """The bound of every result of a program, by name.

    Args:
        program: whose results.
        sums: ``sum|x||w|`` of products, float64 (channels,), the largest among the inputs that the bound is for. In
            wide layers it is far below what the grids allow; a product without one is bounded by its grids.
    """
    found: dict[str, Bound] = {}
    shape, sums = shapes(program), sums or {}
    for op in program:
        read = [found[name] for name in op.inputs if name != INPUT]
        found[op.name] = _bound(op, read, shape[op.inputs[0]][2:], sums.get(op.name))
    return found


def accumulator_bound(product: Product, low: int, high: int) -> int:
    """The largest magnitude that a product's sum of integers can reach, for inputs in [low, high] or padding."""
    most = max(abs(low), abs(high))
    return int(product.per_channel(product.weight.abs()).max()) * most


def _bound(op: Operation, read: list[Bound], extent: tuple[int, ...], summed: Tensor | None) -> Bound:
    """Of one operation, from the bounds of what it reads, the axes behind its channels, and its ``sum|x||w|``."""
    if isinstance(op, Quantize):
        ends = (op.grid.value(torch.tensor([op.grid.low, op.grid.high]))).double().abs()
        return Bound(ends.max(), torch.zeros((), dtype=torch.float64))
    x = read[0]
    if isinstance(op, Product):
        weights = op.per_channel(op.weight.abs()).double() * op.scale.abs()
        terms = op.per_channel(torch.ones_like(op.weight)).double()
        size = weights * x.size.max() if summed is None else summed
        return Bound(size, weights * x.error.max() + (terms + 3) * U * size)
    if isinstance(op, Affine):
        size = op.scale.abs() * x.size
        return Bound(size + op.shift.abs(), op.scale.abs() * x.error + 6 * U * (size + 2 * op.handled))
    if isinstance(op, Concat):
        return Bound(*(torch.stack([getattr(each.flat(), key) for each in read]).amax() for key in ("size", "error")))
    if isinstance(op, Resize):
        places = max(*op.rows.shape, *op.columns.shape)  # a share is found from a place, in float32
        return Bound(x.size, x.error + (8 + 4 * places) * U * x.size)
    if isinstance(op, Sum):
        size = x.size + read[1].size
        return Bound(size, x.error + read[1].error + U * size)
    if isinstance(op, Clamp):
        ends = torch.stack([(sign * x.size).clamp(op.low, op.high).abs() for sign in (-1, 1)])
        return Bound(ends.amax(0), x.error + U * ends.amax(0))
    if isinstance(op, AveragePool):
        terms = math.prod(op.kernel or extent)
        return Bound(x.size, x.error + (terms + 2) * U * x.size)
    changes_channels = isinstance(op, Flatten | Pad) or (isinstance(op, Slice) and len(op.index) > 1 and _cuts(op))
    return x.flat() if changes_channels else x


def _cuts(op: Slice) -> bool:
    return op.index[1] != slice(None)
