"""Quantization noise over signal, of weights and of what the layers read, up to a scale and a shift."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...quant.table import quantized_layers, quantizer_of
from ..sensitivity import MEASURES, Probe, noise_share
from ..space import Choice


def noise_to_signal(probe: Probe, choice: Choice, bits: int) -> float:
    """``10^(-SQNR/10)`` of the weights and of the activations, summed over the layers."""
    model = probe.alone(choice, bits)
    layers: dict[str, Any] = dict(quantized_layers(model))
    total = 0.0
    for name in choice.layers:
        layer = layers[name]
        total += noise_share(layer.weight.detach(), layer.quantized_weight().detach())
        if (quantizer := quantizer_of(layer, "input")) is not None:
            x = _input_of(model, layer, probe.batches[0][0])
            total += noise_share(x, quantizer(x).detach())
    return total


@torch.no_grad()
def _input_of(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        model(x)
    finally:
        hook.remove()
    return seen[0]


MEASURES.add("noise", noise_to_signal)
