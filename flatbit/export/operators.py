"""What modules and functions become in a program, by their kind: two tables, and a function for each entry.

To add an operation is to add an entry: a function of the lowering, the place (name of the result, path in messages),
and what the module or function was called with.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .program import Affine, AveragePool, Clamp, Concat, Flatten, MaxPool, Pad, Resize, Slice, Sum
from .resizing import MODES, shares
from .weights import norm_of

if TYPE_CHECKING:
    from .lowering import Lowering


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operation stands.

    Attributes:
        name: of its result.
        path: of the module, or the function's name, for messages.
    """

    name: str
    path: str

    def refused(self, what: str, expected: str = "") -> ValueError:
        """The error for what has no exported form."""
        return ValueError(f"layer {self.path!r}: {what} has no exported form" + (expected and f": expected {expected}"))


Handler = Callable[..., Any]
"""Gives the name of a result; of ``size`` and ``shape`` numbers, with ``BATCH`` for that of samples."""


class _Batch:
    """How many samples there are: a size that a program does not know."""

    def __repr__(self) -> str:
        return "batch"


BATCH = _Batch()


def _norm(to: Lowering, at: Place, x: str, module: Any) -> str:
    if module.running_mean is None:
        raise at.refused("a batch norm without running statistics")
    return to.add(Affine, at, x, **norm_of(module))


def _clamp(to: Lowering, at: Place, x: Any, low: float, high: float) -> str:
    return to.add(Clamp, at, x, low=float(low), high=float(high))


def _relu(to: Lowering, at: Place, x: Any, *_: Any, **_in_place: Any) -> str:
    return _clamp(to, at, x, 0.0, math.inf)


def _relu6(to: Lowering, at: Place, x: Any, *_: Any, **_in_place: Any) -> str:
    return _clamp(to, at, x, 0.0, 6.0)


def _between(to: Lowering, at: Place, x: Any, min: float | None = None, max: float | None = None) -> str:
    return _clamp(to, at, x, -math.inf if min is None else min, math.inf if max is None else max)


def _between_ones(to: Lowering, at: Place, x: Any, min_val: float = -1.0, max_val: float = 1.0, **_: Any) -> str:
    return _clamp(to, at, x, min_val, max_val)


def _undropped(to: Lowering, at: Place, x: Any, *rate: Any, **settings: Any) -> str:
    if settings.get("training", (*rate, True, True)[1]):
        raise at.refused("dropout in evaluation", "training=self.training")
    return to.source(x, at)


def _hardtanh(to: Lowering, at: Place, x: str, module: Any) -> str:
    return _clamp(to, at, x, module.min_val, module.max_val)


def _same(_to: Lowering, _at: Place, x: str, _module: Any) -> str:
    return x


def _stored_anew(to: Lowering, at: Place, x: Any) -> str:
    return to.source(x, at)


def _add(to: Lowering, at: Place, a: Any, b: Any, *, alpha: float = 1) -> str:
    if alpha != 1:
        raise at.refused(f"a sum with alpha={alpha}")
    return to.add(Sum, at, a, b)


def _times(to: Lowering, at: Place, a: Any, b: Any) -> str:
    x, factor = (b, a) if isinstance(a, int | float) else (a, b)
    if not isinstance(factor, int | float):
        raise at.refused("a product of two results", "a result times a number")
    scale = torch.tensor(float(factor), dtype=torch.float64)
    return to.add(Affine, at, x, scale=scale, shift=torch.zeros_like(scale))


def _flatten(to: Lowering, at: Place, x: Any, start_dim: int = 0, end_dim: int = -1) -> str:
    if (start_dim, end_dim) != (1, -1):
        raise at.refused(f"flattening axes {start_dim} to {end_dim}", "1 to -1, all but the batch")
    return to.add(Flatten, at, x)


def _flatten_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    return _flatten(to, at, x, module.start_dim, module.end_dim)


def _pool_all(to: Lowering, at: Place, x: Any, output_size: Any) -> str:
    if output_size not in (1, (1,), (1, 1), [1, 1]):
        raise at.refused(f"adaptive pooling to {output_size}", "1")
    return to.add(AveragePool, at, x, kernel=None, axes=2)


def _pool_rows_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    if module.output_size not in (1, (1,)):
        raise at.refused(f"adaptive pooling to {module.output_size}", "1")
    return to.add(AveragePool, at, x, kernel=None, axes=1)


def _pool_all_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    return _pool_all(to, at, x, module.output_size)


def _mean(to: Lowering, at: Place, x: Any, dim: Any = (), keepdim: bool = False) -> str:
    if sorted(axis % 4 for axis in dim or ()) != [2, 3]:
        raise at.refused(f"the mean over axes {dim}", "(2, 3)")
    pooled = to.add(AveragePool, at, x, kernel=None, axes=2)
    return pooled if keepdim else to.add(Flatten, Place(f"{at.name}.flat", at.path), pooled)


def _average(
    to: Lowering, at: Place, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, **rest: Any
) -> str:
    if any(_pair(padding)) or rest.get("ceil_mode") or rest.get("divisor_override"):
        raise at.refused("average pooling with padding, ceil_mode or a divisor of its own")
    return to.add(AveragePool, at, x, kernel=_pair(kernel_size), stride=_pair(stride or kernel_size))


def _average_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    keys = ("kernel_size", "stride", "padding", "ceil_mode", "divisor_override")
    return _average(to, at, x, **{key: getattr(module, key) for key in keys})


def _largest(to: Lowering, at: Place, x: Any, kernel_size: Any, stride: Any = None, **rest: Any) -> str:
    if rest.get("return_indices"):
        raise at.refused("max pooling that returns indices")
    sizes = {"kernel": kernel_size, "stride": stride or kernel_size}
    sizes |= {"padding": rest.get("padding", 0), "dilation": rest.get("dilation", 1)}
    ceil = bool(rest.get("ceil_mode"))
    return to.add(MaxPool, at, x, ceil=ceil, **{key: _pair(size) for key, size in sizes.items()})


def _largest_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    return _largest(to, at, x, **{key: getattr(module, key) for key in keys})


def _cut(to: Lowering, at: Place, x: Any, index: Any) -> Any:
    if isinstance(x, tuple):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    plain = all(isinstance(part, slice) for part in index) and index[0] == slice(None)
    numbers = [(part.start, part.stop, part.step) for part in index if isinstance(part, slice)]
    known = all(number is None or isinstance(number, int) for ends in numbers for number in ends)
    if not plain or not known or any(step is not None and step < 1 for _, _, step in numbers):
        raise at.refused(f"the index {index}", "slices of all axes but the batch")
    return to.add(Slice, at, x, index=index)


def _zeros_around(to: Lowering, at: Place, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> str:
    if mode != "constant" or value not in (None, 0, 0.0):
        raise at.refused(f"padding by {mode} of {value}", "zeros")
    return to.add(Pad, at, x, widths=tuple(pad))


def _zeros_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    return to.add(Pad, at, x, widths=tuple(module.padding))


def _size(to: Lowering, at: Place, x: Any, dim: int | None = None) -> Any:
    sizes = to.sizes(x, at)
    return sizes if dim is None else sizes[dim]


def _attribute(to: Lowering, at: Place, x: Any, name: str) -> Any:
    if name != "shape":
        raise at.refused(f"the attribute {name!r} of a result", "its shape")
    return to.sizes(x, at)


def _reshape(to: Lowering, at: Place, x: Any, *shape: Any) -> str:
    asked = tuple(shape[0]) if isinstance(shape[0], tuple | list) else shape
    own = to.sizes(x, at)
    features = math.prod(own[1:])
    if asked not in {(BATCH, -1), (BATCH, features), (-1, features)}:
        raise at.refused(f"the shape {asked} of {own}", f"(batch, -1) or (-1, {features}), one row per sample")
    return to.add(Flatten, at, x)


def _join(to: Lowering, at: Place, tensors: Any, dim: int = 0) -> str:
    axes = {len(to.sizes(x, at)) for x in tensors}
    if any(dim % count != 1 for count in axes):
        raise at.refused(f"joining along axis {dim}", "1, the channels")
    return to.add(Concat, at, *tensors)


def _resize(
    to: Lowering, at: Place, x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, **rest: Any,
) -> str:  # fmt: skip
    before = to.sizes(x, at)[2:]
    factors = _pair(scale_factor) if isinstance(scale_factor, float | int | tuple | list) else None
    after = _pair(size) if factors is None else tuple(n * f for n, f in zip(before, factors, strict=True))
    if mode not in MODES or any(rest.values()) or len(before) != 2 or any(n % 1 for n in after):
        raise at.refused(f"resizing {before} to {after} by {mode!r} {rest or ''}", f"an image, whole sizes, {[*MODES]}")
    sizes = zip(before, map(int, after), strict=True)
    (rows, down), (columns, across) = (shares(*each, mode, bool(align_corners)) for each in sizes)
    return to.add(Resize, at, x, rows=rows, columns=columns, denominator=down * across)


def _resize_module(to: Lowering, at: Place, x: str, module: Any) -> str:
    keys = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    return _resize(to, at, x, **{key: getattr(module, key) for key in keys})


def _pair(size: Any) -> tuple[int, int]:
    """One size for both axes, or one for each."""
    return (size, size) if isinstance(size, int | float) else tuple(size)  # type: ignore[return-value]


MODULES: dict[type[nn.Module], Handler] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _norm),
    nn.ReLU: _relu,
    nn.ReLU6: _relu6,
    nn.Hardtanh: _hardtanh,
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _same),
    nn.Flatten: _flatten_module,
    nn.AdaptiveAvgPool1d: _pool_rows_module,
    nn.AdaptiveAvgPool2d: _pool_all_module,
    nn.AvgPool2d: _average_module,
    nn.MaxPool2d: _largest_module,
    nn.ZeroPad2d: _zeros_module,
    **dict.fromkeys((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d), _resize_module),
}
"""By exact class: what a subclass of somebody else's computes is not known."""

COPIES = ("clone", torch.clone)
"""Functions whose result has its source's values in memory of its own."""
FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _times),
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), _relu),
    F.relu6: _relu6,
    **dict.fromkeys((torch.clamp, "clamp", "clamp_"), _between),
    F.hardtanh: _between_ones,
    F.dropout: _undropped,
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    F.adaptive_avg_pool2d: _pool_all,
    F.avg_pool2d: _average,
    F.max_pool2d: _largest,
    operator.getitem: _cut,
    F.pad: _zeros_around,
    **dict.fromkeys(("view", "reshape", torch.reshape), _reshape),
    **dict.fromkeys((torch.cat, torch.concat), _join),
    F.interpolate: _resize,
    **dict.fromkeys(("contiguous", *COPIES), _stored_anew),
    "size": _size,
    getattr: _attribute,
}
