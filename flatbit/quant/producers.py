"""Producers: which activations quantize what each layer reads, found by running the model once.

Where activations are quantized at their output, a layer without an input quantizer has the bits of
whatever made its input, through operations that keep values (``tracking``): it may have several producers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import modes_kept
from .layers import QuantizedLayer
from .spec import FLOAT_BITS
from .table import is_weighted, quantized_layers, quantizer_of
from .tracking import Sources, Tracking


@torch.no_grad()
def note_producers_(model: nn.Module, x: Tensor) -> None:
    """Write into the spec of every layer without an input quantizer which outputs it reads, in place.

    Args:
        model: quantized and calibrated.
        x: a few inputs, on its device.

    Raises:
        ValueError: layers whose activations count as quantized, and which read some that no quantizer made. All are
            named; the specs are as before.
    """
    readers = dict(_readers(model))
    found: dict[str, list[Sources | None]] = {name: [] for name in readers}
    if readers and any(quantizer_of(module, "output") is not None for module in model.modules()):
        with modes_kept(model), reads_watched(model, lambda name, x, sources: found[name].append(sources)):
            model.eval()(x)
    unread = [name for name, seen in found.items() if must_read_outputs(readers[name]) and not all(seen)]
    if unread:
        raise ValueError(unquantized_words(model, unread))
    for name, layer in readers.items():
        names = {quantizer.site.layer for sources in found[name] for quantizer in sources or ()}
        layer.spec = replace(layer.spec, producers=tuple(sorted(names)))


def must_read_outputs(layer: QuantizedLayer) -> bool:
    """Whether a layer without an input quantizer counts its activations as quantized, and is not the first."""
    return layer.spec.input_bits < FLOAT_BITS and layer.spec.role != "first"


def unquantized_words(model: nn.Module, names: list[str]) -> str:
    """What is wrong with layers that read activations which no quantizer made, and the mend."""
    layers = dict(quantized_layers(model))
    listed = ", ".join(f"{name!r} ({layers[name].spec.input_bits} bit)" for name in names)
    return (
        f"{len(names)} layers count their activations as quantized, but read values that no quantizer made: {listed}. "
        f"Give each its own, before quantize_: policy.override({names[0]!r}, placement='input'), or take "
        "placement='input' for all"
    )


@contextmanager
def reads_watched(model: nn.Module, note: Callable[[str, Tensor, Sources | None], None]) -> Iterator[None]:
    """While it is on, each call of a layer without an input quantizer is noted: its name, what it reads, from whom."""
    tracking, readers = Tracking(), dict(_readers(model))
    if not readers:
        yield
        return

    def reads(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs.get("input", next(iter(kwargs.values())))
            note(name, x, tracking.of(x))

        return hook

    def makes(quantizer: Any, _args: Any, output: Tensor) -> None:
        tracking.begin(quantizer, output)

    outputs = [quantizer_of(module, "output") for module in model.modules()]
    hooks = [quantizer.register_forward_hook(makes) for quantizer in outputs if quantizer is not None]
    hooks += [layer.register_forward_pre_hook(reads(name), with_kwargs=True) for name, layer in readers.items()]
    try:
        with tracking:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _readers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """The weighted layers without an input quantizer."""
    layers = quantized_layers(model)
    return ((name, layer) for name, layer in layers if is_weighted(layer) and quantizer_of(layer, "input") is None)
