"""What a quantized network computes in evaluation, as a short list of operations on whole numbers and real scales.

A ``Program`` is the network with its batch norms as affine maps and its quantizers as grids. It is the form that every
export starts from: real scales become multipliers and shifts in the integer executor, constants in ONNX.

Three kinds of values flow through it. The *input* is what the model is given. *Coded* values are whole numbers n
that stand for ``step * (n + offset)``: what layers multiply. Everything between a product and the next quantizer is a
*stream* of real numbers, which training kept in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..quant.grid import Grid
from ..quant.rounding import Ties


@dataclass(frozen=True, kw_only=True, slots=True)
class Coding:
    """Whole numbers ``low <= n <= high`` that stand for ``step * (n + offset)``.

    A mid-rise grid, ``step * (code + 1/2)``, is held as ``n = 2 code + 1`` at half the step, so that its offset is
    0, as padding and products want it. LSQ+ alone has another offset.
    """

    step: float
    offset: float
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Bits of a two's complement or, where none is negative, unsigned number that holds them."""
        return (self.high.bit_length() if self.low >= 0 else max(-self.low - 1, self.high).bit_length() + 1) or 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation:
    """One step of a program; abstract.

    Attributes:
        name: of its result, unique.
        inputs: names of what it reads; ``INPUT`` is the model's input.
        layer: the module that it comes from, for messages.
    """

    name: str
    inputs: tuple[str, ...]
    layer: str


INPUT = "input"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quantize(Operation):
    """A stream, or the input, to codes: ``clip(round(x / step - offset), low, high)``.

    Attributes:
        grid: of one step; ``low`` and ``high`` as far as the quantizer reaches.
        ties: where a value half way goes (``quant.rounding.nearest_code``).
        quantizer: path of the module that does it in the model.
    """

    grid: Grid
    ties: Ties
    quantizer: str

    @property
    def doubled(self) -> bool:
        """Whether the result is ``2 code + 1`` in place of the code."""
        return self.grid.offset == 0.5

    @property
    def coding(self) -> Coding:
        """What the resulting whole numbers stand for."""
        step, low, high = float(self.grid.step), self.grid.low, self.grid.high
        if self.doubled:
            return Coding(step=step / 2, offset=0.0, low=2 * low + 1, high=2 * high + 1)
        return Coding(step=step, offset=float(self.grid.offset), low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Product(Operation):
    """Codes times integer weights, summed: ``scale * sum(n w)``, a convolution or a linear map.

    Attributes:
        weight: int64, of the layer's shape: codes, or ``2 code + 1`` where the grid is mid-rise.
        scale: float64 (out_channels,): the step of each output channel's ``weight``.
        bits: of a weight.
        convolve: the product of an input and a weight without bias, in any dtype.
        channel_axis: of the weight's output channels.
        groups: of a transposed convolution, whose weight has the output channels of one group.
        doubled: whether ``weight`` holds ``2 code + 1`` in place of codes.
    """

    weight: Tensor
    scale: Tensor
    bits: int
    convolve: Callable[[Tensor, Tensor], Tensor]
    geometry: dict[str, Any]
    channel_axis: int = 0
    groups: int = 1
    doubled: bool = False

    def per_channel(self, weight: Tensor) -> Tensor:
        """The sum of each output channel's entries, shape (out_channels,)."""
        rows = weight.movedim(self.channel_axis, 0).flatten(1)
        if self.channel_axis == 0:
            return rows.sum(1)
        grouped = rows.reshape(len(rows), self.groups, -1).sum(2)  # inputs of a transposed one come group by group
        return grouped.T.reshape(-1)

    def per_weight(self, values: Tensor) -> Tensor:
        """A number of each output channel, shape (out_channels,), shaped to meet ``weight``."""
        if self.channel_axis == 0:
            return values.reshape(-1, *[1] * (self.weight.ndim - 1))
        rows = values.reshape(self.groups, -1).repeat_interleave(len(self.weight) // self.groups, 0)
        return rows.reshape(*rows.shape, *[1] * (self.weight.ndim - 2))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatProduct(Product):
    """A product with an operand in float, which integer forms refuse.

    Where its weight is float, ``weight`` holds it as it is, float64, with scales of 1, ``bits`` of 32.

    Attributes:
        operand: which is float, "input" or "weight"; "weight" where both are.
    """

    operand: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Affine(Operation):
    """``scale * x + shift`` per channel: a batch norm, a bias.

    Attributes:
        scale, shift: float64, () or (channels,).
        terms: the summed magnitudes of what ``shift`` is the sum of, float64, a bias and a mean that is taken off:
            float32 rounds each, though they may cancel. None where it is one term.
    """

    scale: Tensor
    shift: Tensor
    terms: Tensor | None = None

    @property
    def handled(self) -> Tensor:
        """``terms``, or the magnitude of ``shift``."""
        return self.shift.abs() if self.terms is None else self.terms


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sum(Operation):
    """The sum of two streams."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clamp(Operation):
    """``min(max(x, low), high)``: ReLU, ReLU6, hard tanh. Either end may be infinite."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AveragePool(Operation):
    """The mean over windows. ``kernel`` None: over all ``axes`` after the channels, kept as axes of length 1."""

    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] = ()
    axes: int = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaxPool(Operation):
    """The largest of each window, with zero padding left out of it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slice(Operation):
    """``x[index]``: plain slices, with positive steps, on axes after the batch."""

    index: tuple[slice, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pad(Operation):
    """Zeros added: ``widths`` as ``torch.nn.functional.pad`` takes them, last axis first."""

    widths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Concat(Operation):
    """Streams one behind another along the channels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Resize(Operation):
    """``rows x columns^T / denominator``: images made larger or smaller, separably.

    Attributes:
        rows: int64 (height, height before): the share of each row, times its part of the denominator.
        columns: int64 (width, width before), likewise.
        denominator: that all shares have in common.
    """

    rows: Tensor
    columns: Tensor
    denominator: int

    def of(self, x: Tensor) -> Tensor:
        """The sum in the dtype of x (N, C, H, W), not yet divided."""
        return self.rows.to(x) @ x @ self.columns.to(x).T


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flatten(Operation):
    """All axes after the batch as one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Program:
    """The operations in order; the last one gives the model's output.

    Attributes:
        input_shape: of one sample, without the batch.
        model: the class name of the network, for messages.
    """

    operations: tuple[Operation, ...]
    input_shape: tuple[int, ...]
    model: str

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    @property
    def output(self) -> str:
        """Name of the last result."""
        return self.operations[-1].name

    def readers(self) -> dict[str, list[Operation]]:
        """Who reads each result."""
        found: dict[str, list[Operation]] = {op.name: [] for op in self}
        for op in self:
            for name in op.inputs:
                found.setdefault(name, []).append(op)
        return found


MOVING = (MaxPool, Slice, Pad, Flatten)
"""Operations that compute nothing: of codes they give codes, of a stream a stream."""


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    """Numbers per channel, shape (C,) or (), shaped to meet a tensor (N, C, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 2)) if values.ndim else values
