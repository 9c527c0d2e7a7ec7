"""Assignment: the bits of every weighted layer, read and changed, with all that speaks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from ..registry import nearest
from ..undo import undone_on_failure
from ..wrappers import named_modules
from .candidates import observe_at_each_
from .layers import QuantizedLayer
from .producers import must_read_outputs
from .quantizer import Quantizer
from .reparametrized import folded
from .settings import check_bits
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

    A layer without an input quantizer has the bits of the activations that it reads, where they are quantized at their
    output: those that its policy states, until ``calibrate_`` has noted which they are. An input that nothing quantizes
    is 32, whatever the policy has it counted as: SAQ's images, 8 bits in ``cost``, are float here.
    """
    modules = dict(named_modules(model))
    return {name: _bits_of(name, layer, modules) for name, layer in weighted_layers(model)}


@torch.no_grad()
def assign_bits_(model: nn.Module, bits: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """Change the bit-widths of layers, in place: quantizers and specs together, so that all that reads either agrees.

    A learned step is scaled by the ratio of its method's unit steps at the two widths, a learned clip stays; a
    step that is computed from the weight is computed anew, one calibrated from data keeps its range. A quantizer
    with ``candidates`` switches to the row of that width. No parameter is made or replaced.

    Args:
        model: quantized; calibrated or not.
        bits: (weights, activations) by layer, tuples or lists (as read from JSON), 32 where the tensor is float.
            Layers that share a weight share its bits. Where activations are quantized at their output, those of a
            layer are its producer's, which ``calibrate_`` finds.

    Returns:
        The bits of every layer whose bits are others now, by name: those asked for, and whatever shares a weight with
        them or reads the same output.

    Raises:
        ValueError: no mapping, an unknown layer, activations of outputs before ``calibrate_`` has found them, a width
            that its method does not have, a float tensor that would need a quantizer or the reverse, two layers that
            read one output or share a weight and disagree. Nothing is changed then.
    """
    _check_asked(model, bits)
    before = assignment(model)
    changes = _changes(model, bits)
    for quantizer, change in changes.items():
        quantizer.check_assignable(change.bits)
    stale = {quantizer for quantizer, change in changes.items() if _is_stale_at(quantizer, change.bits)}
    state = chain.from_iterable(chain(q.parameters(), q.buffers()) for q in changes)
    with undone_on_failure(model, state), folded(layer for _, layer in quantized_layers(model)):
        for quantizer, change in changes.items():
            quantizer.assign_(change.bits)
        for _, layer in quantized_layers(model):
            _restate_(layer, changes)
            for _, quantizer, parameter in quantized_tensors(layer, "weight"):
                if quantizer in stale:
                    observe_at_each_(quantizer, parameter)
        _follow_producers_(model, changes)
    return {name: pair for name, pair in assignment(model).items() if pair != before[name]}


def _check_asked(model: nn.Module, bits: Any) -> None:
    """Raise ValueError unless bits are pairs by the names of layers."""
    if not isinstance(bits, Mapping):
        raise ValueError(f"assign_bits_: got {bits!r}: expected pairs by layer, as {{'conv1': (4, 4)}}")
    layers = dict(weighted_layers(model))
    for name, pair in bits.items():
        if name not in layers:
            raise ValueError(f"assign_bits_: no convolution or linear layer {name!r}: {nearest(name, layers)}")
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"assign_bits_({name!r}): got {pair!r}: expected a pair, (weights, activations)")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """A quantizer's new width, and the layer that asked for it."""

    bits: int
    asked_by: str


def _changes(model: nn.Module, bits: Mapping[str, Sequence[int]]) -> dict[Quantizer, _Change]:
    """What each quantizer gets; one that serves several layers once. Raises ValueError."""
    modules = dict(named_modules(model))
    changes: dict[Quantizer, _Change] = {}
    for name, (weights, activations) in bits.items():
        layer = modules[name]
        check_bits(f"assign_bits_({name!r}): weights", weights)
        check_bits(f"assign_bits_({name!r}): activations", activations)
        now = _bits_of(name, layer, modules)
        if activations != now[1] and _waits_for_producers(layer):
            raise ValueError(
                f"assign_bits_: activations of layer {name!r} count as {now[1]} bit, and are quantized where they are "
                f"made, asked for {activations}: call calibrate_ first, which finds out where that is"
            )
        weighs = [(name, slot.name, quantizer_of(layer, slot.name)) for slot in slots_of(layer, "weight")]
        reads = _outputs(name, layer, modules) or [(name, "input", quantizer_of(layer, "input"))]
        asked = [(*place, weights, now[0]) for place in weighs] + [(*place, activations, now[1]) for place in reads]
        for holder, slot, quantizer, width, present in asked:
            if width == present:  # of several tensors each keeps its own
                width = FLOAT_BITS if quantizer is None else quantizer.bit_width()
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


def _bits_of(name: str, layer: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[int, int]:
    weights, activations = bits_of(layer)
    own = quantizer_of(layer, "input") is not None or _waits_for_producers(layer)
    return weights, activations if own or _outputs(name, layer, modules) else FLOAT_BITS


def _waits_for_producers(layer: nn.Module) -> bool:
    """Whether a layer reads outputs that are quantized, and nobody has found out yet which."""
    if not is_quantized(layer) or quantizer_of(layer, "input") is not None:
        return False
    quantized = cast(QuantizedLayer, layer)
    return must_read_outputs(quantized) and not quantized.spec.producers


def _never_float(holder: str, slot: str, quantizer: Quantizer | None, bits: int) -> str:
    now = "float" if quantizer is None else f"{quantizer.stated_bits} bit"
    return (
        f"assign_bits_: {slot} of layer {holder!r} is {now}, asked for {bits} bits: bits change, but what is quantized "
        "at all is the policy's: flatbit.restore_(model), then quantize_ with another"
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
            counted = change.bits if slot.role == "input" else layer.spec.input_bits
            before = {name: spec for name, spec in layer.spec.averaged_from.items() if name != slot.name}
            kept = layer.spec.averaged_from if change.bits == layer.spec.tensors[slot.name].bits else before
            layer.spec = replace(layer.spec.with_tensor(slot.name, spec), input_bits=counted, averaged_from=kept)


def _follow_producers_(model: nn.Module, changes: Mapping[Quantizer, _Change]) -> None:
    """Let what layers without an input quantizer are counted with follow the changed outputs that they read."""
    modules = dict(named_modules(model))
    for name, layer in quantized_layers(model):
        outputs = [quantizer for *_, quantizer in _outputs(name, layer, modules) if quantizer is not None]
        if any(quantizer in changes for quantizer in outputs):
            layer.spec = replace(layer.spec, input_bits=max(quantizer.bit_width() for quantizer in outputs))


def _outputs(name: str, layer: nn.Module, modules: Mapping[str, nn.Module]) -> list[tuple[str, str, Quantizer | None]]:
    """The activations that quantize what a layer reads; none where it has an input quantizer of its own.

    Raises ValueError where one is not in the model.
    """
    if not is_quantized(layer) or quantizer_of(layer, "input") is not None:
        return []
    found: list[tuple[str, str, Quantizer | None]] = []
    for producer in cast(QuantizedLayer, layer).spec.producers:
        if producer not in modules:
            raise ValueError(
                f"layer {name!r} reads the output of {producer!r}, by the model that was calibrated, and "
                "this one has no such module: take that model, or run flatbit.quant.note_producers_(model, x)"
            )
        if (quantizer := quantizer_of(modules[producer], "output")) is not None:
            found.append((producer, "output", quantizer))
    return found
