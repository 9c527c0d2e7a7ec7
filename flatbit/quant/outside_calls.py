"""Outside calls: weights that are quantized past their layer's call, where nothing shows what they multiply.

``F.linear(x, layer.quantized_weight())`` and ``layer.forward(x)`` run no hook of the layer, so what they read is seen
only where the layer's input quantizer runs beside.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from .producers import must_read_outputs
from .table import is_weighted, quantized_layers, quantizer_of, slots_of


class OutsideCalls:
    """Counts the quantizers of layers that run while their layer does not, while its hooks are in place.

    Attributes:
        hooks: to remove.
    """

    def __init__(self, model: nn.Module) -> None:
        self.hooks: list[Any] = []
        self._running: list[nn.Module] = []
        self._outside: Counter[nn.Module | None] = Counter()
        self._layers = [(name, layer) for name, layer in quantized_layers(model) if is_weighted(layer)]
        holders: dict[nn.Module, list[nn.Module]] = {}
        for _, layer in self._layers:
            self.hooks.append(layer.register_forward_pre_hook(lambda layer, _: self._running.append(layer)))
            self.hooks.append(layer.register_forward_hook(lambda *_: self._leave(), always_call=True))
            for slot in slots_of(layer, "weight", "input"):
                if (quantizer := quantizer_of(layer, slot.name)) is not None:
                    holders.setdefault(quantizer, []).append(layer)
        for quantizer, layers in holders.items():
            self.hooks.append(quantizer.register_forward_pre_hook(self._count(layers)))

    def unread(self) -> list[str]:
        """The layers whose activations count as quantized, and whose weight met some that nothing saw."""
        return [
            name
            for name, layer in self._layers
            if (quantizer_of(layer, "input") is not None or must_read_outputs(layer))
            and any(
                self._outside[quantizer_of(layer, slot.name)] > self._outside[quantizer_of(layer, "input")]
                for slot in slots_of(layer, "weight")
                if quantizer_of(layer, slot.name) is not None
            )
        ]

    def _count(self, layers: list[nn.Module]) -> Any:
        def hook(quantizer: nn.Module, _: Any) -> None:
            if not any(layer is running for layer in layers for running in self._running):
                self._outside[quantizer] += 1

        return hook

    def _leave(self) -> None:
        self._running.pop()
