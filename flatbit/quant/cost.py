"""Cost of a model: bit-operations, multiply-adds, parameters and bytes, per layer and in total.

    bit-operations = k^2 c_in (c_out / groups) h_out w_out b_w b_a     (SAQ, section 4.1)

for convolutions, ``c_in c_out b_w b_a`` for linear layers, of one image; nothing else counts, and
modules that multiply by weights of their own are named as not counted. Float is 32 bits;
multiply-adds are the same without the bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from ..device import device_of
from ..modes import modes_kept
from ..text import as_text
from ..wrappers import named_modules
from .convert import as_float
from .quantizer import Quantizer
from .spec import FLOAT_BITS
from .table import bits_of, has_unknown_products, is_quantized, is_weighted, quantizer_of, row_of, weighted_layers

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """Cost of one layer, for one image."""

    name: str
    type: str
    weight_bits: int
    activation_bits: int
    macs: int
    bitops: int
    params: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of a model for one image. Prints as a table.

    Attributes:
        layers: every module that holds parameters, in order of definition.
        uncounted: names of the modules outside the table that hold a matrix themselves (attention,
            RNNs, ``x @ self.w``): their parameters and bytes count, their products do not.
    """

    layers: tuple[LayerCost, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def bitops(self) -> int:
        """Bit-operations of all convolutions and linear layers."""
        return sum(layer.bitops for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of all convolutions and linear layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def params(self) -> int:
        """Parameters of the network, quantizers' steps not counted."""
        return sum(layer.params for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """Bytes of the packed model: weights at their bits, steps, and the rest in float."""
        return sum(layer.size_bytes for layer in self.layers)

    def __str__(self) -> str:
        table = Table(
            "layer", "type", "bits W/A", "MACs", "bit-operations", "parameters", "bytes", title="cost of one image"
        )
        for c in self.layers:
            bits = f"{c.weight_bits}/{c.activation_bits}" if c.macs else ""
            table.add_row(c.name, c.type, bits, f"{c.macs:,}", f"{c.bitops:,}", f"{c.params:,}", f"{c.size_bytes:,}")
        table.add_section()
        totals = (self.macs, self.bitops, self.params, self.size_bytes)
        table.add_row("total", "", "", *(f"{total:,}" for total in totals), style="bold")
        names = ", ".join(name or "(the model itself)" for name in self.uncounted)
        return as_text(table, *([f"Products inside these are not counted: {names}"] if names else []))


def cost(model: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Count a model's bit-operations, multiply-adds, parameters and bytes.

    Args:
        model: float or quantized; it need not be calibrated. One zero image runs through it.
        input_shape: of one image, without the batch: ``(3, 32, 32)``.

    Raises:
        ValueError: not a shape, or one that the model does not take.
    """
    if not isinstance(input_shape, tuple | list):
        raise ValueError(f"input_shape={input_shape!r}: expected the shape of one image, such as (3, 32, 32)")
    macs: dict[nn.Module, int] = {}

    def count(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        row = row_of(module)
        assert row is not None
        assert row.macs is not None
        macs[module] = macs.get(module, 0) + row.macs(module, args[0], output)

    hooks = [layer.register_forward_hook(count) for _, layer in weighted_layers(model)]
    tensors = chain(model.parameters(), filter(torch.is_floating_point, model.buffers()))
    dtype = next((tensor.dtype for tensor in tensors), torch.float32)
    try:
        with torch.no_grad(), modes_kept(model), as_float(model):
            model.eval()
            model(torch.zeros(1, *input_shape, device=device_of(model), dtype=dtype))
    except RuntimeError as error:
        raise ValueError(f"{type(model).__name__} does not take one image of shape {input_shape}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    counted: set[int] = set()
    holders = [(name, m) for name, m in named_modules(model) if not isinstance(m, Quantizer) and _holds(m)]
    return Cost(
        layers=tuple(_layer_cost(name, module, macs.get(module, 0), counted) for name, module in holders),
        uncounted=tuple(name for name, module in named_modules(model) if has_unknown_products(module)),
    )


def _holds(module: nn.Module) -> bool:
    return is_quantized(module) or any(
        True for _ in chain(module.parameters(recurse=False), module.buffers(recurse=False))
    )


def _layer_cost(name: str, module: Any, macs: int, counted: set[int]) -> LayerCost:
    """The cost of one layer; a parameter that an earlier layer ``counted`` (tied weights) is not counted again."""
    weight_bits, activation_bits = bits_of(module) if is_weighted(module) else (FLOAT_BITS, FLOAT_BITS)
    own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) not in counted}
    counted |= {id(p) for p in own.values()}
    return LayerCost(
        name=name,
        type=type(module).__name__,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        macs=macs,
        bitops=macs * weight_bits * activation_bits,
        params=sum(p.numel() for p in own.values()),
        size_bytes=_size_bytes(module, own),
    )


def _size_bytes(module: Any, parameters: dict[str, Tensor]) -> int:
    """Each tensor at its bits, rounded up to whole bytes; 4 bytes for every step and float value."""
    size = 0
    for role, tensor in parameters.items():
        quantizer = quantizer_of(module, role)
        bits = quantizer.bit_width() if quantizer is not None else 8 * FLOAT_BYTES
        size += math.ceil(tensor.numel() * bits / 8)
    size += FLOAT_BYTES * sum(b.numel() for b in module.buffers(recurse=False) if b.is_floating_point())
    return size + FLOAT_BYTES * sum(q.num_steps for q in module.children() if isinstance(q, Quantizer))
