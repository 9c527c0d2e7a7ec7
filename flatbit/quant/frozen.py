"""Frozen layers stay frozen: what a new quantizer learns trains where what it quantizes does."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .quantizer import Quantizer
from .table import quantizer_of, slots_of


def follow_layers_(model: nn.Module, names: Iterable[str]) -> None:
    """Let the steps and clips of the named layers' quantizers train only where their layers do, in place.

    Of a weight or bias: where that trains; one that is shared, where any of them does. Of an input: where any
    parameter of the layer trains. Of the output of a layer without parameters: where those of the layer defined
    before it train, within the innermost module that has some (of the one after it, where it comes first there).
    """
    modules = dict(model.named_modules())
    trains: dict[Quantizer, bool] = {}
    for name in names:
        layer = modules[name]
        for slot in slots_of(layer):
            if (quantizer := quantizer_of(layer, slot.name)) is not None:
                tensor = getattr(layer, slot.name, None)
                own = _trains(name, modules) if not isinstance(tensor, nn.Parameter) else tensor.requires_grad
                trains[quantizer] = trains.get(quantizer, False) or own
    for quantizer, moves in trains.items():
        quantizer.requires_grad_(moves)


def _trains(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether a layer trains: by its own parameters, or by its neighbour's; a model without any trains."""
    order = {key: position for position, key in enumerate(modules)}
    held = {
        key: [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        for key, module in modules.items()
        if not isinstance(module, Quantizer)
    }
    parts = name.split(".")
    for scope in (".".join(parts[:depth]) for depth in range(len(parts), -1, -1)):
        near = [key for key, flags in held.items() if flags and _is_within(key, scope)]
        before = [key for key in near if order[key] <= order[name]]
        if near:
            return any(held[before[-1] if before else near[0]])
    return True


def _is_within(name: str, scope: str) -> bool:
    return not scope or name == scope or name.startswith(f"{scope}.")
