"""Tracking: which quantizers made the values that a tensor holds, through operations that keep values.

Pooling by the maximum, padding, concatenation, reshaping and selection move levels about and make no new
ones; a sum or a mean makes values that no grid has. The kernels that run are watched, so nothing is guessed
from a model's code, and nothing depends on how many values a batch happens to hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .provenance import memory_of
from .quantizer import Quantizer

Sources = frozenset[Quantizer]

KEEP_VALUES = frozenset(
    f"aten::{name}"
    for name in (
        "clone", "copy_", "_to_copy", "_unsafe_view", "cat", "stack", "index", "_unsafe_index", "index_select",
        "gather", "take", "masked_select", "masked_fill", "masked_fill_", "where", "index_put", "index_put_",
        "scatter", "slice_scatter", "select_scatter", "flip", "roll", "repeat", "im2col", "constant_pad_nd",
        "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
        "replication_pad3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
        "adaptive_max_pool3d", "max_unpool2d", "max_unpool3d", "max", "min", "amax", "amin", "maximum", "minimum",
        "relu", "relu_", "sort", "topk", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "pixel_shuffle", "pixel_unshuffle",
        "channel_shuffle", "native_channel_shuffle", "zero_", "fill_",
    )
)  # fmt: skip
MAKE_ROOM = frozenset(
    f"aten::{name}"
    for name in ("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided")
)
"""What makes room for values to come: it holds zeros, or nothing yet."""


class Tracking(TorchDispatchMode):
    """While it is on, follows the outputs of quantizers through operations that keep values.

    Views share memory, so a tensor is known by its storage; one that a float value was written into is no longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[StorageWeakRef | None, Sources] = {}

    def begin(self, quantizer: Quantizer, output: Tensor) -> None:
        """Note that a quantizer has made a tensor."""
        self._sources[memory_of(output)] = Sources({quantizer})

    def of(self, x: Tensor) -> Sources | None:
        """The quantizers that made a tensor's values, but for zeros beside them; None where some came otherwise."""
        return self._sources.get(memory_of(x))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _floats((args, kwargs))
        result = func(*args, **kwargs)
        shared = {memory_of(x) for x in read}
        made = [x for x in _floats(result) if memory_of(x) not in shared]
        given = _by_argument(func._schema, args, kwargs)
        sources = None if _sums(given) else self._after(func._schema.name, read, _numbers(given))
        for x in (*made, *_written(given)):
            if sources is None:
                self._sources.pop(memory_of(x), None)
            else:
                self._sources[memory_of(x)] = sources
        return result

    def _after(self, operation: str, read: Iterable[Tensor], numbers: Iterable[float]) -> Sources | None:
        """Who made the values that an operation returns or writes; zeros beside them, as in padding, add nothing."""
        if operation in MAKE_ROOM:
            return Sources()
        read = list(read)
        if operation not in KEEP_VALUES or any(numbers) or not read:  # a cast of integers reads no levels
            return None
        found = [self.of(x) for x in read if x.ndim or x.item()]
        known = [sources for sources in found if sources is not None]
        return Sources().union(*known) if len(known) == len(found) else None


def _by_argument(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    """What an operation was given, beside what its schema says of it."""
    positional = list(zip(schema.arguments, args, strict=False))
    return positional + [(argument, kwargs[argument.name]) for argument in schema.arguments if argument.name in kwargs]


def _numbers(given: list[tuple[Any, Any]]) -> Iterator[float]:
    """The numbers among an operation's values: not its sizes and axes."""
    return (value for argument, value in given if "number" in str(argument.type) and value is not None)


def _sums(given: list[tuple[Any, Any]]) -> bool:
    """Whether an operation adds what it moves to what is there (``accumulate=True``, ``reduce="add"``)."""
    return any(bool(value) for argument, value in given if argument.name in ("accumulate", "reduce"))


def _written(given: list[tuple[Any, Any]]) -> Iterator[Tensor]:
    """The floating tensors that an operation writes into."""
    for argument, value in given:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _floats(value)


def _floats(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]
