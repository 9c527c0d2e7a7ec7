"""Windows, strides and paddings as ONNX's attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .program import AveragePool, MaxPool, Product


def convolution_attributes(op: Product) -> tuple[str, dict[str, Any]]:
    """``Conv`` or ``ConvTranspose``, and its attributes."""
    geometry = op.geometry
    attributes = {
        "strides": geometry["stride"],
        "pads": [*geometry["padding"], *geometry["padding"]],
        "dilations": geometry["dilation"],
        "group": geometry["groups"],
    }
    if "output_padding" not in geometry:
        return "Conv", attributes
    return "ConvTranspose", {**attributes, "output_padding": geometry["output_padding"]}


def pool_attributes(op: MaxPool, size: Sequence[int], out: Sequence[int]) -> dict[str, Any]:
    """Attributes of ``MaxPool`` with as many windows as torch has, whatever either rounds up."""
    widths = pool_padding(op, size, out)
    return {
        "kernel_shape": op.kernel,
        "strides": op.stride,
        "dilations": op.dilation,
        "pads": [*widths[::2][::-1], *widths[1::2][::-1]],
    }


def pool_padding(op: MaxPool, size: Sequence[int], out: Sequence[int]) -> list[int]:
    """Padding that leaves as many windows as torch has, as ``F.pad`` takes it, last axis first."""
    widths: list[int] = []
    for axis in reversed(range(len(size))):
        reach = (out[axis] - 1) * op.stride[axis] + op.dilation[axis] * (op.kernel[axis] - 1) + 1
        widths += [op.padding[axis], max(0, reach - size[axis] - op.padding[axis])]
    return widths


def places(op: AveragePool | MaxPool, out: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Where the values at each place of the windows begin and end, on the two axes of an image."""
    assert op.kernel is not None
    dilation = op.dilation if isinstance(op, MaxPool) else (1, 1)
    reach = [1 + (n - 1) * step for n, step in zip(out, op.stride, strict=True)]
    starts = [[i * dilation[0], j * dilation[1]] for i in range(op.kernel[0]) for j in range(op.kernel[1])]
    return [(start, [start[0] + reach[0], start[1] + reach[1]]) for start in starts]
