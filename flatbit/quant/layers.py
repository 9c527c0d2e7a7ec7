"""Quantized layer classes, and the exact-type table from float class to quantized class.

Each class only changes ``forward``; it adds no constructor and no parameter of its own, so
``quantize_`` can put it in place of the float class on a living module. A quantizer that is None
leaves its tensor in float.

    weighted layers    input_quantizer, weight_quantizer, bias_quantizer
    batch norm         weight_quantizer (its scale), bias_quantizer
    activations        output_quantizer
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from .quantizer import Quantizer

FLOAT_BITS = 32
SLOTS = ("input_quantizer", "weight_quantizer", "bias_quantizer", "output_quantizer")


def through(quantizer: Quantizer | None, x: Any) -> Any:
    """``quantizer(x)``, or x itself where there is no quantizer (or no x: a layer without bias)."""
    return x if quantizer is None or x is None else quantizer(x)


def _quantized_input(layer: Any, x: Tensor) -> Tensor:
    """The input that ``forward`` uses. Raises TypeError on integers."""
    if not x.is_floating_point():
        raise TypeError(
            f"input of layer {_name_of(layer)!r}: expected a floating-point tensor, got {x.dtype}: "
            "convert it, e.g. x.float()"
        )
    return through(layer.input_quantizer, x)


def _name_of(layer: Any) -> str:
    """The layer's name in the model, which its quantizers know."""
    return next((q.site.layer for q in layer.children() if isinstance(q, Quantizer)), type(layer).__name__)


def _quantized_weight(layer: Any) -> Tensor:
    """The weight that ``forward`` uses: on its grid, or the float weight where that is the policy."""
    return through(layer.weight_quantizer, layer.weight)


def _quantized_bias(layer: Any) -> Tensor | None:
    """The bias that ``forward`` uses."""
    return through(layer.bias_quantizer, layer.bias)


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


def _with_quantized_output(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of an activation whose output is quantized once, for all its readers."""

    def forward(self: Any, input: Tensor) -> Tensor:
        return through(self.output_quantizer, base.forward(self, input))

    doc = f"{base.__name__} with a quantized output."
    return type(f"Q{base.__name__}", (base,), {"forward": forward, "__doc__": doc, "__module__": __name__})


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of a float class: its quantized class, what it is, its weight's output axis."""

    quantized: type[nn.Module]
    kind: Literal["convolution", "linear", "activation", "normalization"]
    channel_axis: int = 0


ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity,
)  # fmt: skip

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)

TABLE: dict[type[nn.Module], Row] = {
    nn.Linear: Row(QLinear, "linear"),
    nn.Conv1d: Row(QConv1d, "convolution"),
    nn.Conv2d: Row(QConv2d, "convolution"),
    nn.Conv3d: Row(QConv3d, "convolution"),
    nn.ConvTranspose1d: Row(QConvTranspose1d, "convolution", 1),
    nn.ConvTranspose2d: Row(QConvTranspose2d, "convolution", 1),
    nn.BatchNorm1d: Row(QBatchNorm1d, "normalization"),
    nn.BatchNorm2d: Row(QBatchNorm2d, "normalization"),
    nn.BatchNorm3d: Row(QBatchNorm3d, "normalization"),
    **{base: Row(_with_quantized_output(base), "activation") for base in ACTIVATIONS},
}
FLOAT_CLASS: dict[type[nn.Module], type[nn.Module]] = {row.quantized: base for base, row in TABLE.items()}
# Pickle looks a class up by name in its module; the generated ones have no name here yet.
globals().update({row.quantized.__name__: row.quantized for row in TABLE.values() if row.kind == "activation"})


def row_of(module: nn.Module) -> Row | None:
    """The table's row for a module's exact type, float or quantized; None where there is none."""
    return TABLE.get(FLOAT_CLASS.get(type(module), type(module)))


def is_quantized(module: nn.Module) -> bool:
    """Whether the module is of a quantized class."""
    return type(module) in FLOAT_CLASS


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every quantized layer of a model, by name, each once."""
    return ((name, module) for name, module in model.named_modules() if is_quantized(module))


def has_quantized_layers(model: nn.Module) -> bool:
    """Whether any layer of a model is of a quantized class."""
    return next(quantized_layers(model), None) is not None


def quantizers_of(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Every quantizer of a model, by name, each once (tied weights share theirs)."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantizer))


def own_weights(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of two axes or more that a module holds itself: what its products may read.

    ``torch.nn.utils.parametrize`` moves them one module down; they count as the module's. Norms,
    whose parameters scale and shift, and quantizers, whose parameters are steps, hold none.
    """
    if isinstance(module, (*NORMS, Quantizer, ParametrizationList)):
        return []
    moved = module._modules.get("parametrizations") or nn.ModuleDict()
    held = [p for holder in (module, *moved.children()) for p in holder.parameters(recurse=False)]
    return [p for p in held if not is_lazy(p) and p.ndim > 1]


def has_unknown_products(module: nn.Module) -> bool:
    """Whether a module that the table does not know holds a matrix, which a product of its own may read.

    A vector, whatever its axes (a scale of shape (1, C, 1, 1), a token), is none, nor is a look-up table.
    """
    if row_of(module) is not None or isinstance(module, LOOKED_UP):
        return False
    return any(sum(n > 1 for n in weight.shape) > 1 for weight in own_weights(module))


def bits_of(layer: Any) -> tuple[int, int]:
    """Bits of a layer's weight and input in use: those learned where a method learns them (DQ), 32 for float.

    An input without a quantizer of its own has the bits that the policy counts it with.
    """
    if not is_quantized(layer):
        return FLOAT_BITS, FLOAT_BITS
    weight, activations = layer.weight_quantizer, layer.input_quantizer
    return (
        weight.bit_width() if weight is not None else FLOAT_BITS,
        activations.bit_width() if activations is not None else layer.spec.input_bits,
    )
