"""Assignment: the bits of every weighted layer, read and changed, with all that speaks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from ..registry import nearest
from .layers import QuantizedLayer
from .policy import check_bits
from .quantizer import Quantizer
from .spec import FLOAT_BITS
from .table import (
    bits_of,
    is_quantized,
    quantized_layers,
    quantized_tensors,
    quantizer_of,
    slots_of,
    weighted_layers,
)


def assignment(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Bits of weights and activations of every convolution and linear layer, in order; 32 for float.

    A layer without an input quantizer has the bits of the activation that made its input, where one is known
    (``calibrate_`` notes it).
    """
    modules = dict(model.named_modules())
    return {name: (bits_of(layer)[0], _activation_bits(layer, modules)) for name, layer in weighted_layers(model)}


@torch.no_grad()
def assign_bits_(model: nn.Module, bits: Mapping[str, tuple[int, int]]) -> None:
    """Change the bit-widths of layers, in place: quantizers and specs together, so that all that reads either agrees.

    A learned step is scaled by the ratio of its method's unit steps at the two widths, a learned clip stays; a
    step that is computed from the weight is computed anew, one calibrated from data keeps its range. A quantizer
    with ``candidates`` switches to the row of that width. No parameter is made or replaced.

    Args:
        model: quantized; calibrated or not.
        bits: (weights, activations) by layer, 32 where the tensor is float. Layers that share a weight share its
            bits. Where activations are quantized at their output, those of a layer are its producer's, which
            ``calibrate_`` finds.

    Raises:
        ValueError: an unknown layer, a width that its method does not have, a float tensor that would need a
            quantizer or the reverse, two layers that read one output or share a weight and disagree. Nothing is
            changed then.
    """
    layers = dict(weighted_layers(model))
    for name in bits:
        if name not in layers:
            raise ValueError(f"assign_bits_: no convolution or linear layer {name!r}: {nearest(name, layers)}")
    changes = _changes(model, bits)
    for quantizer, change in changes.items():
        quantizer.check_assignable(change.bits)
    stale = {quantizer for quantizer, change in changes.items() if _is_stale_at(quantizer, change.bits)}
    for quantizer, change in changes.items():
        quantizer.assign_(change.bits)
    for _, layer in quantized_layers(model):
        _restate_(layer, changes)
        for _, quantizer, parameter in quantized_tensors(layer, "weight"):
            if quantizer in stale:
                quantizer.observe_(parameter)
    _follow_producers_(model, changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """A quantizer's new width, and the layer that asked for it."""

    bits: int
    asked_by: str


def _changes(model: nn.Module, bits: Mapping[str, tuple[int, int]]) -> dict[Quantizer, _Change]:
    """What each quantizer gets; one that serves several layers once. Raises ValueError."""
    modules = dict(model.named_modules())
    changes: dict[Quantizer, _Change] = {}
    for name, (weights, activations) in bits.items():
        layer = modules[name]
        check_bits(f"assign_bits_({name!r}): weights", weights)
        check_bits(f"assign_bits_({name!r}): activations", activations)
        asked = [(name, slot.name, weights) for slot in slots_of(layer, "weight")]
        made = [(producer, "output", activations) for producer in _producers(layer, modules)]
        for holder, slot, width in (*asked, *(made or [(name, "input", activations)])):
            quantizer = quantizer_of(modules[holder], slot)
            if (quantizer is None) != (width == FLOAT_BITS):
                raise ValueError(_never_float(holder, slot, quantizer, width))
            if quantizer is None:
                continue
            first = changes.setdefault(quantizer, _Change(bits=width, asked_by=name))
            if first.bits != width:
                both = "read" if quantizer.site.role == "output" else "share"
                raise ValueError(
                    f"assign_bits_: {first.asked_by!r} asks for {first.bits} bits, {name!r} for {width}, and both "
                    f"{both} the {quantizer.site}: give them the same"
                )
    return changes


def _never_float(holder: str, slot: str, quantizer: Quantizer | None, bits: int) -> str:
    now = "float" if quantizer is None else f"{quantizer.stated_bits} bit"
    return (
        f"assign_bits_: {slot} of layer {holder!r} is {now}, asked for {bits} bits: bits change, but what is quantized "
        "at all is the policy's: flatbit.restore_(model), then quantize_ with another. (Which outputs a layer reads, "
        "where it has no input quantizer, is known once calibrate_ has run.)"
    )


def _is_stale_at(quantizer: Quantizer, bits: int) -> bool:
    """Whether another width makes its step stale: computed from the weight once, neither learned nor one of a table."""
    learned = any(True for _ in quantizer.parameters())
    return quantizer.stated_bits != bits and not learned and not quantizer.site.candidates and quantizer.calibrated


def _restate_(layer: QuantizedLayer, changes: Mapping[Quantizer, _Change]) -> None:
    """Write the new widths into a layer's spec."""
    for slot in slots_of(layer):
        if (change := changes.get(cast(Quantizer, quantizer_of(layer, slot.name)))) is not None:
            spec = replace(layer.spec.tensors[slot.name], bits=change.bits)
            layer.spec = layer.spec.with_tensor(slot.name, spec)


def _follow_producers_(model: nn.Module, changes: Mapping[Quantizer, _Change]) -> None:
    """Let what layers without an input quantizer are counted with follow the changed outputs that they read."""
    modules = dict(model.named_modules())
    for _, layer in quantized_layers(model):
        if any(quantizer in changes for quantizer in _outputs(layer, modules)):
            layer.spec = replace(layer.spec, input_bits=_activation_bits(layer, modules))


def _activation_bits(layer: nn.Module, modules: Mapping[str, nn.Module]) -> int:
    """Those of the input's quantizer, or of the outputs that it reads: the widest."""
    if (quantizer := quantizer_of(layer, "input")) is not None:
        return quantizer.bit_width()
    return max((quantizer.bit_width() for quantizer in _outputs(layer, modules)), default=FLOAT_BITS)


def _outputs(layer: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[Quantizer]:
    """The quantizers of the outputs that a layer reads."""
    return (cast(Quantizer, quantizer_of(modules[name], "output")) for name in _producers(layer, modules))


def _producers(layer: nn.Module, modules: Mapping[str, nn.Module]) -> list[str]:
    """The activations that quantize what a layer reads; none where it has an input quantizer of its own."""
    if not is_quantized(layer) or quantizer_of(layer, "input") is not None:
        return []
    noted = cast(QuantizedLayer, layer).spec.producers
    return [name for name in noted if quantizer_of(modules[name], "output") is not None]
