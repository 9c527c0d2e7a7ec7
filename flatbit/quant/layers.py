"""Quantized layer classes: what ``quantize_`` puts in place of a float class on a living module.

Each class only changes ``forward``; it adds no constructor and no parameter of its own. The table
(``flatbit.quant.table``) says of each which tensors can be quantized (its slots): the quantizer of slot
``weight`` is the module ``weight_quantizer``, and one that is None leaves its tensor in float.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .quantizer import Quantizer
from .spec import LayerSpec

QUANTIZER = "_quantizer"


class QuantizedLayer(nn.Module):
    """What a quantized layer has beside what its float class has: for annotations, never instantiated."""

    spec: LayerSpec
    weight: nn.Parameter
    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None


def apply_slot(layer: Any, slot: str, x: Any) -> Any:
    """x as the slot's quantizer makes it, or x itself where there is none (or no x: a layer without bias)."""
    quantizer = getattr(layer, slot + QUANTIZER)
    return x if quantizer is None or x is None else quantizer(x)


def _quantized_input(layer: Any, x: Tensor) -> Tensor:
    """The input that ``forward`` uses. Raises TypeError on integers."""
    if not x.is_floating_point():
        raise TypeError(
            f"input of layer {_name_of(layer)!r}: expected a floating-point tensor, got {x.dtype}: "
            "convert it, e.g. x.float()"
        )
    return apply_slot(layer, "input", x)


def _name_of(layer: Any) -> str:
    """The layer's name in the model, which its quantizers know."""
    return next((q.site.layer for q in layer.children() if isinstance(q, Quantizer)), type(layer).__name__)


def _quantized_weight(layer: Any) -> Tensor:
    """The weight that ``forward`` uses: on its grid, or the float weight where that is the policy."""
    return apply_slot(layer, "weight", layer.weight)


def _quantized_bias(layer: Any) -> Tensor | None:
    """The bias that ``forward`` uses."""
    return apply_slot(layer, "bias", layer.bias)


class QLinear(nn.Linear):
    """A linear layer with a quantized input, weight and bias."""

    quantized_input = _quantized_input
    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())


class QConv1d(nn.Conv1d):
    """A 1-d convolution with a quantized input, weight and bias."""

    quantized_input = _quantized_input
    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())


class QConv2d(nn.Conv2d):
    """A 2-d convolution with a quantized input, weight and bias."""

    quantized_input = _quantized_input
    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())


class QConv3d(nn.Conv3d):
    """A 3-d convolution with a quantized input, weight and bias."""

    quantized_input = _quantized_input
    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())


class QConvTranspose1d(nn.ConvTranspose1d):
    """A 1-d transposed convolution with a quantized input, weight and bias."""

    quantized_input = _quantized_input
    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _transposed(F.conv_transpose1d, self, input, output_size, 1)


class QConvTranspose2d(nn.ConvTranspose2d):
    """A 2-d transposed convolution with a quantized input, weight and bias."""

    quantized_input = _quantized_input
    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _transposed(F.conv_transpose2d, self, input, output_size, 2)


def _transposed(convolve: Any, layer: Any, input: Tensor, output_size: list[int] | None, dims: int) -> Tensor:
    sizes = (layer.stride, layer.padding, layer.kernel_size, dims, layer.dilation)
    padding = layer._output_padding(input, output_size, *sizes)
    weight, bias = layer.quantized_weight(), layer.quantized_bias()
    x = layer.quantized_input(input)
    return convolve(x, weight, bias, layer.stride, layer.padding, padding, layer.groups, layer.dilation)


def _normalize(layer: Any, input: Tensor) -> Tensor:
    """``_BatchNorm.forward`` with the quantized scale and shift."""
    layer._check_input_dim(input)
    momentum = layer.momentum or 0.0
    if layer.training and layer.track_running_stats:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            momentum = 1.0 / float(layer.num_batches_tracked)
    use_batch = layer.training or layer.running_mean is None
    tracked = not use_batch or layer.track_running_stats
    running = (layer.running_mean, layer.running_var) if tracked else (None, None)
    return F.batch_norm(
        input, *running, layer.quantized_weight(), layer.quantized_bias(), use_batch, momentum, layer.eps
    )


class QBatchNorm1d(nn.BatchNorm1d):
    """Batch norm with a quantized scale and shift (FAQ)."""

    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return _normalize(self, input)


class QBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with a quantized scale and shift (FAQ)."""

    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return _normalize(self, input)


class QBatchNorm3d(nn.BatchNorm3d):
    """Batch norm with a quantized scale and shift (FAQ)."""

    quantized_weight = _quantized_weight
    quantized_bias = _quantized_bias

    def forward(self, input: Tensor) -> Tensor:
        return _normalize(self, input)


def with_quantized_output(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of an activation whose output is quantized once, for all its readers."""

    def forward(self: Any, input: Tensor) -> Tensor:
        return apply_slot(self, "output", base.forward(self, input))

    doc = f"{base.__name__} with a quantized output."
    return type(f"Q{base.__name__}", (base,), {"forward": forward, "__doc__": doc, "__module__": __name__})
