"""The operations of the integer executor: whole numbers in, whole numbers out, int64 tensors.

Products are taken in float64, where sums of integers below 2^53 are exact in any order; accumulators are checked to
fit 32 bits when the program is built (``fixed.py``). Every rescaling is one integer product, one addition and one
shift. ``>>`` of a negative number rounds down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quant.grid import Grid
from ..quant.rounding import Ties, nearest_code
from .program import AveragePool, Coding, MaxPool, Product, Resize, along_channels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerOperation(ABC):
    """One step of the executor; abstract.

    Attributes:
        name: of its result; inputs: what it reads; layer: the module that it comes from.
    """

    name: str
    inputs: tuple[str, ...]
    layer: str

    @abstractmethod
    def run(self, *x: Tensor) -> Tensor:
        """The result, int64, from int64 (``Encode``: from the input)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encode(IntegerOperation):
    """The input's values to codes, as the model's first quantizer does, in float32: the door to the integers.

    Attributes:
        pixels: int64 (channels, 256): the code of every pixel value, where the input is uint8.
    """

    grid: Grid
    ties: Ties
    doubled: bool
    pixels: Tensor | None = None

    def run(self, *x: Tensor) -> Tensor:
        if x[0].dtype != torch.uint8:
            return self.codes(x[0])
        if self.pixels is None:
            raise ValueError(f"layer {self.layer!r}: got pixels, and no table for them: prepare them, or give prepare=")
        channels = torch.arange(len(self.pixels)).reshape(-1, *[1] * (x[0].ndim - 2))
        return self.pixels[channels, x[0].long()]

    def codes(self, x: Tensor) -> Tensor:
        """Codes of float values, int64; ``2 code + 1`` where doubled."""
        grid = self.grid
        x = x.clamp(*grid.value(torch.tensor([grid.low, grid.high])).tolist())  # ties away from zero know no low
        codes = nearest_code(x, grid.step, grid.offset, grid.low, grid.high, self.ties).long()
        return 2 * codes + 1 if self.doubled else codes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Accumulate(IntegerOperation):
    """``sum(n w)``: what a convolution or linear layer adds up.

    Attributes:
        accumulator_bits: of a two's complement number that holds any sum.
        read: what the inputs stand for.
    """

    product: Product
    accumulator_bits: int
    read: Coding

    def run(self, *x: Tensor) -> Tensor:
        return self.product.convolve(x[0].double(), self.product.weight.double()).long()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowSum(IntegerOperation):
    """``sum(w)`` over the part of each window that is no padding: what an offset of the codes is multiplied by."""

    product: Product

    def run(self, *x: Tensor) -> Tensor:
        ones = torch.ones_like(x[0][:1], dtype=torch.float64)
        return self.product.convolve(ones, self.product.weight.double()).long()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rescale(IntegerOperation):
    """``(n m + n' m' + addend) >> shift`` per channel, with n' of a second input: whole numbers to a stream.

    Attributes:
        multiplier: int64, () or (channels,), below 2^31 in magnitude.
        addend: int64, () or (channels,); half of ``2^shift`` is in it, so that the shift rounds.
        second: m' of the second input, int64, () or (channels,); None where there is none.
    """

    multiplier: Tensor
    addend: Tensor
    shift: int
    second: Tensor | None = None

    def run(self, *x: Tensor) -> Tensor:
        n = x[0] * along_channels(self.multiplier, x[0]) + along_channels(self.addend, x[0])
        if self.second is not None:
            n = n + x[1] * along_channels(self.second, x[0])
        return n >> self.shift


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Round(IntegerOperation):
    """A stream to codes: ``clip((n multiplier + addend) >> shift, low, high)``, ties as the quantizer has them.

    Attributes:
        addend: with half of ``2^shift`` in it, so that the shift rounds: a tie leaves no remainder.
    """

    multiplier: int
    addend: int
    shift: int
    low: int
    high: int
    ties: Ties
    doubled: bool

    def run(self, *x: Tensor) -> Tensor:
        n = x[0] * self.multiplier + self.addend
        q = n >> self.shift
        tie = n & ((1 << self.shift) - 1) == 0
        down = {"even": q & 1 == 1, "even_from_low": (q - self.low) & 1 == 1, "away": x[0] < 0}[self.ties]
        q = (q - (tie & down).long()).clamp(self.low, self.high)
        return 2 * q + 1 if self.doubled else q


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Add(IntegerOperation):
    """The sum of two streams of one scale."""

    def run(self, *x: Tensor) -> Tensor:
        return x[0] + x[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Limit(IntegerOperation):
    """A stream between two whole numbers; None where an end is open."""

    low: int | None
    high: int | None

    def run(self, *x: Tensor) -> Tensor:
        return x[0].clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mean(IntegerOperation):
    """The mean of a window, rounded to the nearest whole number: the sum, divided by the number of terms."""

    pool: AveragePool

    def run(self, *x: Tensor) -> Tensor:
        if self.pool.kernel is None:
            axes = tuple(range(2, x[0].ndim))
            total, terms = x[0].sum(axes, keepdim=True), x[0][0, 0].numel()
        else:
            kernel = self.pool.kernel
            total = F.avg_pool2d(x[0].double(), kernel, self.pool.stride, divisor_override=1).long()
            terms = kernel[0] * kernel[1]
        return (total + terms // 2).div(terms, rounding_mode="floor")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Largest(IntegerOperation):
    """The largest of each window."""

    pool: MaxPool

    def run(self, *x: Tensor) -> Tensor:
        pool = self.pool
        found = F.max_pool2d(x[0].double(), pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil)
        return found.long()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Enlarge(IntegerOperation):
    """A stream resized, rounded to the nearest whole number: shares of pixels, divided by what they have in common."""

    resize: Resize

    def run(self, *x: Tensor) -> Tensor:
        total, terms = self.resize.of(x[0].double()).long(), self.resize.denominator
        return (total + terms // 2).div(terms, rounding_mode="floor")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Join(IntegerOperation):
    """Streams of one scale, one behind another along the channels."""

    def run(self, *x: Tensor) -> Tensor:
        return torch.cat(x, 1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cut(IntegerOperation):
    """Plain slices."""

    index: tuple[slice, ...]

    def run(self, *x: Tensor) -> Tensor:
        return x[0][self.index]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZeroPad(IntegerOperation):
    """Zeros added."""

    widths: tuple[int, ...]

    def run(self, *x: Tensor) -> Tensor:
        return F.pad(x[0], self.widths)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flat(IntegerOperation):
    """All axes after the batch as one."""

    def run(self, *x: Tensor) -> Tensor:
        return x[0].flatten(1)
