"""A layer's weight as whole numbers, its product as a function of two tensors, its norm as an affine map."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quant.grid import Grid
from ..quant.spec import FLOAT_BITS
from ..quant.table import quantizer_of
from .program import FloatProduct, Product

CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
TRANSPOSED = {nn.ConvTranspose1d: F.conv_transpose1d, nn.ConvTranspose2d: F.conv_transpose2d}
PRODUCTS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
"""Classes of layers, by exact class, that have a form."""


def product_of(name: str, source: str, path: str, layer: Any, *, coded: bool) -> Product:
    """What a layer multiplies codes (``coded``) or floats by. Raises ValueError where that has no exported form."""
    transposed = isinstance(layer, tuple(TRANSPOSED))
    convolve, geometry = _convolution(path, layer)
    quantized = quantizer_of(layer, "weight") is not None
    parts = {
        "name": name,
        "inputs": (source,),
        "layer": path,
        "convolve": convolve,
        "geometry": geometry,
        "channel_axis": 1 if transposed else 0,
        "groups": layer.groups if transposed else 1,
        **(_coded_weight(path, layer) if quantized else _float_weight(layer)),
    }
    if quantized and coded:
        return Product(**parts)
    return FloatProduct(**parts, operand="input" if quantized else "weight")


def _coded_weight(path: str, layer: Any) -> dict[str, Any]:
    quantizer = quantizer_of(layer, "weight")
    assert quantizer is not None
    grid = quantizer.grid(layer.weight)
    if grid.offset not in (0, 0.5):
        raise ValueError(f"layer {path!r}: weights on a grid with offset {grid.offset:g} have no exported form")
    codes, doubled = quantizer.codes(layer.weight).long(), bool(grid.offset)
    return {
        "weight": 2 * codes + 1 if doubled else codes,
        "scale": _channel_steps(layer, grid) / (2 if doubled else 1),
        "bits": quantizer.bit_width(),
        "doubled": doubled,
    }


def _float_weight(layer: Any) -> dict[str, Any]:
    weight = layer.weight.detach().double()
    return {"weight": weight, "scale": torch.ones(_channels(layer), dtype=torch.float64), "bits": FLOAT_BITS}


def bias_of(layer: Any) -> Tensor | None:
    """The bias that ``forward`` uses, float64; None where there is none."""
    bias = layer.quantized_bias() if hasattr(layer, "quantized_bias") else layer.bias
    return None if bias is None else bias.detach().double()


def norm_of(layer: Any) -> dict[str, Tensor]:
    """A batch norm in evaluation: scale, shift and terms of an ``Affine``, float64 (channels,)."""
    quantized = hasattr(layer, "quantized_weight")
    weight = layer.quantized_weight() if quantized else layer.weight
    bias = layer.quantized_bias() if quantized else layer.bias
    mean, variance = (tensor.detach().double() for tensor in (layer.running_mean, layer.running_var))
    scale = (variance + layer.eps).rsqrt()
    scale = scale if weight is None else scale * weight.detach().double()
    bias = torch.zeros_like(scale) if bias is None else bias.detach().double()
    return {"scale": scale, "shift": bias - mean * scale, "terms": (mean * scale).abs() + bias.abs()}


def _channel_steps(layer: Any, grid: Grid) -> Tensor:
    """The step of each output channel, float64."""
    channels = _channels(layer)
    step = grid.step.double()
    if step.numel() == 1:
        return step.reshape(1).expand(channels).clone()
    if step.numel() == channels:
        return step.flatten()
    per_group = step.movedim(1, 0).flatten(1)  # a grouped transposed convolution repeats them over its rows
    groups: Any = getattr(layer, "groups", 1)
    rows = per_group.shape[1] // groups
    return per_group[:, ::rows].T.flatten()


def _channels(layer: Any) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _convolution(path: str, layer: Any) -> tuple[Any, dict[str, Any]]:
    if isinstance(layer, nn.Linear):
        return F.linear, {}
    if layer.padding_mode != "zeros":
        raise ValueError(f"layer {path!r}: padding_mode={layer.padding_mode!r} has no exported form: only 'zeros' has")
    padding = _same_padding(path, layer) if isinstance(layer.padding, str) else tuple(layer.padding)
    geometry: dict[str, Any] = {
        "stride": tuple(layer.stride),
        "padding": padding,
        "dilation": tuple(layer.dilation),
        "groups": layer.groups,
    }
    kinds = TRANSPOSED if layer.transposed else CONVOLUTIONS
    convolve = next(function for kind, function in kinds.items() if isinstance(layer, kind))
    if layer.transposed:
        geometry["output_padding"] = tuple(layer.output_padding)
    return partial(convolve, **geometry), geometry


def _same_padding(path: str, layer: Any) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    reach = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(total % 2 for total in reach):
        raise ValueError(f"layer {path!r}: padding='same' pads an even kernel unevenly: give widths")
    return tuple(total // 2 for total in reach)
