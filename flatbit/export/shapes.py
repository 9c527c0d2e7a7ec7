"""The shape of every result of a program, found without computing anything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .program import (
    INPUT,
    Affine,
    AveragePool,
    Concat,
    Flatten,
    MaxPool,
    Operation,
    Pad,
    Product,
    Program,
    Resize,
    Slice,
    Sum,
    along_channels,
)


def shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """Shape of each result for a batch of one, by name, the input among them.

    Raises ValueError, naming the layer, where an operation cannot take what it reads.
    """
    found = {INPUT: torch.empty(1, *program.input_shape, device="meta")}
    for op in program:
        read = [found[name] for name in op.inputs]
        try:
            found[op.name] = _result(op, *read)
        except (RuntimeError, IndexError) as error:
            shown = " and ".join(str(tuple(x.shape)) for x in read)
            raise ValueError(
                f"layer {op.layer!r}: cannot take shape {shown}, which follows from an input of shape "
                f"{program.input_shape} and a batch of 1: give the shape of one sample as the model takes it ({error})"
            ) from error
    return {name: tuple(x.shape) for name, x in found.items()}


def _result(op: Operation, *x: Tensor) -> Tensor:
    if isinstance(op, Product):
        if op.convolve is F.linear and x[0].ndim != 2:
            raise ValueError(
                f"layer {op.layer!r}: a linear layer got a shape {tuple(x[0].shape)} and has an exported form for one "
                "vector per sample, (N, features), alone: flatten before it"
            )
        return op.convolve(x[0], op.weight.to("meta", torch.float32))
    if isinstance(op, Affine):
        return x[0] * along_channels(op.scale.to("meta", torch.float32), x[0])
    if isinstance(op, Sum):
        return x[0] + x[1]
    if isinstance(op, AveragePool) and x[0].ndim != 2 + op.axes:
        raise ValueError(
            f"layer {op.layer!r}: averages a tensor of shape {tuple(x[0].shape)} over {op.axes} axes, and has an "
            "exported form where these are all after the channels"
        )
    if isinstance(op, AveragePool):
        return x[0].mean(tuple(range(2, x[0].ndim)), keepdim=True) if op.kernel is None else _windows(op, x[0])
    if isinstance(op, MaxPool):
        return F.max_pool2d(x[0], op.kernel, op.stride, op.padding, op.dilation, op.ceil)
    if isinstance(op, Slice):
        return x[0][op.index]
    if isinstance(op, Pad):
        return F.pad(x[0], op.widths)
    if isinstance(op, Concat):
        return torch.cat(x, 1)
    if isinstance(op, Resize):
        return op.of(x[0])
    return x[0].flatten(1) if isinstance(op, Flatten) else x[0]


def _windows(op: AveragePool, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, op.kernel, op.stride)  # type: ignore[arg-type]
