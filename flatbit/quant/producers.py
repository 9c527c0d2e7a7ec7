"""Producers: which activations quantize what each layer reads, found by running the model once.

Where activations are quantized at their output, a layer without an input quantizer has the bits of
whatever made its input. Values are followed through whatever lies between (pooling, reshaping,
concatenation, sums): a layer may have several producers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..modes import modes_kept
from ..wrappers import named_modules
from .layers import QuantizedLayer
from .table import is_weighted, quantized_layers, quantizer_of

Names = frozenset[str]


@torch.no_grad()
def note_producers_(model: nn.Module, x: Tensor) -> None:
    """Write into the spec of every layer without an input quantizer which outputs it reads, in place.

    Args:
        model: quantized and calibrated.
        x: a few inputs, on its device.
    """
    readers = {name: layer for name, layer in quantized_layers(model) if _reads_outputs(layer)}
    seen: dict[str, Names] = {}
    if readers and any(quantizer_of(module, "output") is not None for module in model.modules()):
        with modes_kept(model), _Followed() as followed, _hooked(model, followed, seen):
            model.eval()(x)
    for name, layer in readers.items():
        layer.spec = replace(layer.spec, producers=tuple(sorted(seen.get(name, Names()))))


def _reads_outputs(layer: QuantizedLayer) -> bool:
    return is_weighted(layer) and quantizer_of(layer, "input") is None


class _Followed(TorchFunctionMode):
    """Which quantized outputs each tensor was made from, while the mode is on.

    Attributes:
        origins: by the tensor's id; the tensors are kept, so that no id is given twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[int, tuple[Tensor, Names]] = {}

    def of(self, values: Any) -> Names:
        """The producers of all tensors among some values."""
        found = (self.origins.get(id(leaf)) for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        return Names().union(*(entry[1] for entry in found if entry is not None))

    def mark(self, values: Any, names: Names) -> None:
        """Say where the tensors among some values come from."""
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor):
                self.origins[id(leaf)] = leaf, names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__.endswith("_like") or func.__name__.startswith("new_"):
            return result  # of the same shape or type, but no values
        if names := self.of((args, kwargs or {})):
            self.mark(args[0] if result is None else result, names)  # z[:, :4] = h returns nothing
        return result


@contextmanager
def _hooked(model: nn.Module, followed: _Followed, seen: dict[str, Names]) -> Iterator[None]:
    """Weighted layers note what they read and begin anew; quantized outputs begin with their own name."""

    def reads(name: str) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen[name] = seen.get(name, Names()) | followed.of(args)

        return note

    def makes(names: Names) -> Any:
        def note(_: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            followed.mark(output, names)

        return note

    hooks = []
    for name, module in named_modules(model):
        if is_weighted(module):
            hooks += [module.register_forward_pre_hook(reads(name)), module.register_forward_hook(makes(Names()))]
        elif quantizer_of(module, "output") is not None:
            hooks.append(module.register_forward_hook(makes(Names({name}))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
