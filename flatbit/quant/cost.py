"""Cost of a model: bit-operations, multiply-adds, parameters and bytes, per layer and in total.

    bit-operations = k^2 c_in (c_out / groups) h_out w_out b_w b_a     (SAQ, section 4.1)

for convolutions, ``c_in c_out b_w b_a`` for linear layers; multiply-adds are the same without the bits. All that
one forward of one image multiplies counts, however the model folds the image's axes. What a layer's own call
does not multiply is float, 32 x 32 bits: a weight that is read outside the call, a product of activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from rich.table import Table
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..bits import num_bytes
from ..text import as_text
from ..wrappers import named_modules
from .example import example_of, multiplied, zero_image
from .products import Omission, Products
from .quantizer import Quantizer
from .reparametrized import folded
from .spec import FLOAT_BITS
from .stored import stored_buffers
from .table import bits_of, has_unknown_products, is_quantized, is_weighted, quantizer_of

STEP_BYTES = 4
FLOAT_BITOPS = FLOAT_BITS * FLOAT_BITS


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """Cost of one layer, for one image.

    Attributes:
        macs: multiply-adds of all products that read its weight.
        outside_macs: those of them outside of its call (``F.linear(x, layer.weight)``): float, whatever its bits.
        bitops: of both.
    """

    name: str
    type: str
    weight_bits: int
    activation_bits: int
    macs: int
    outside_macs: int = 0
    bitops: int
    params: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of a model for one image. Prints as a table.

    Attributes:
        of: what was counted: ``image (3, 32, 32)``.
        layers: every module that holds parameters or multiplies, in order of definition.
        activation_macs: multiply-adds of products that read no layer's weight: attention's, of two activations.
        uncalled: names of the layers that the forward never called, nor read the weight of: they count 0.
        omitted: what is not counted, by module: products of weights alone, which no image changes; matrices that meet
            activations element by element; operations whose multiply-adds are not known.
    """

    of: str
    layers: tuple[LayerCost, ...]
    activation_macs: int = 0
    uncalled: tuple[str, ...] = ()
    omitted: tuple[Omission, ...] = ()

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of the modules of which something is not counted (``omitted``)."""
        return tuple(dict.fromkeys(each.name for each in self.omitted))

    @property
    def bitops(self) -> int:
        """Bit-operations of all products, those of activations in float."""
        return sum(layer.bitops for layer in self.layers) + self.activation_bitops

    @property
    def activation_bitops(self) -> int:
        """Bit-operations of products of activations: 32 x 32 for each multiply-add, as no layer quantizes them."""
        return self.activation_macs * FLOAT_BITOPS

    @property
    def macs(self) -> int:
        """Multiply-adds of all products."""
        return sum(layer.macs for layer in self.layers) + self.activation_macs

    @property
    def outside(self) -> tuple[str, ...]:
        """Names of the layers whose weight is read outside of their call."""
        return tuple(layer.name for layer in self.layers if layer.outside_macs)

    @property
    def params(self) -> int:
        """Parameters of the network, quantizers' steps not counted."""
        return sum(layer.params for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """Bytes of the packed model: weights at their bits, steps, and the rest in float."""
        return sum(layer.size_bytes for layer in self.layers)

    def __str__(self) -> str:
        columns = ("layer", "type", "bits W/A", "MACs", "bit-operations", "parameters", "bytes")
        table = Table(*columns, title=f"cost of one {self.of}")
        for c in self.layers:
            bits = f"{c.weight_bits}/{c.activation_bits}" if c.macs else ""
            table.add_row(c.name, c.type, bits, f"{c.macs:,}", f"{c.bitops:,}", f"{c.params:,}", f"{c.size_bytes:,}")
        if self.activation_macs:
            counts = (f"{self.activation_macs:,}", f"{self.activation_bitops:,}", "0", "0")
            table.add_row("products of activations", "", f"{FLOAT_BITS}/{FLOAT_BITS}", *counts)
        table.add_section()
        totals = (self.macs, self.bitops, self.params, self.size_bytes)
        table.add_row("total", "", "", *(f"{total:,}" for total in totals), style="bold")
        return as_text(table, *self._notes())

    def _notes(self) -> list[str]:
        """What the table does not say."""
        outside = [f"{_shown(c.name)} ({c.outside_macs:,} MACs)" for c in self.layers if c.outside_macs]
        said = {
            "Never called, counted as 0": [_shown(name) for name in self.uncalled],
            "Weights read outside of their layer's call, counted for it, in float": outside,
            "Not counted": [str(each) for each in self.omitted],
        }
        return [f"{what}: {', '.join(names)}" for what, names in said.items() if names]


def cost(model: nn.Module, input_shape: tuple[int, ...] | None = None, *, example: Any = None) -> Cost:
    """Count a model's bit-operations, multiply-adds, parameters and bytes; the model is left as it was.

    Args:
        model: float or quantized; it need not be calibrated. One zero image, or the example, runs through it.
        input_shape: of one image, without the batch: ``(3, 32, 32)``.
        example: in its place what the model is called with for one input, batch axis of 1 included: a tensor (tokens:
            ``torch.zeros(1, 128, dtype=torch.long)``), a tuple of arguments, a mapping of arguments by name. All of it
            counts: two images in it cost twice one.

    Raises:
        ValueError: neither or both of shape and example, not a shape, an input that the model does not take,
            a layer that has no weight yet (lazy).

    Weights that pruning or a parametrization computes count as plain ones.
    """
    if (input_shape is None) == (example is None):
        raise ValueError(
            f"input_shape={input_shape!r}: expected the shape of one image, such as (3, 32, 32), or in its place "
            "example=..., what the model is called with"
        )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet (a lazy layer): run the model once on an input, then count")
    called = zero_image(model, input_shape) if example is None else example_of(model, example)
    with folded(model.modules()):
        return _cost_of(model, multiplied(model, called), called.of)


def _cost_of(model: nn.Module, found: Products, of: str) -> Cost:
    modules = {name: m for name, m in named_modules(model) if not isinstance(m, Quantizer)}
    multiplying = [name for name, m in modules.items() if is_weighted(m) or has_unknown_products(m)]
    counted: set[int] = set()
    return Cost(
        of=of,
        layers=tuple(
            _layer_cost(name, m, found, counted) for name, m in modules.items() if _holds(m) or found.macs[name]
        ),
        activation_macs=found.without_weight,
        uncalled=tuple(name for name in multiplying if name not in found.reached),
        omitted=found.omissions(),
    )


def _holds(module: nn.Module) -> bool:
    return is_quantized(module) or any(
        True for _ in chain(module.parameters(recurse=False), module.buffers(recurse=False))
    )


def _shown(name: str) -> str:
    return name or "(the model itself)"


def _layer_cost(name: str, module: Any, found: Products, counted: set[int]) -> LayerCost:
    """The cost of one layer; what an earlier layer ``counted`` (tied weights) is not counted again."""
    weight_bits, activation_bits = bits_of(module) if is_weighted(module) else (FLOAT_BITS, FLOAT_BITS)
    own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) not in counted}
    steps = [q for q in module.children() if isinstance(q, Quantizer) and id(q) not in counted]
    counted |= {id(each) for each in (*own.values(), *steps)}
    macs, outside = found.macs[name], found.outside[name]
    return LayerCost(
        name=name,
        type=type(module).__name__,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        macs=macs,
        outside_macs=outside,
        bitops=(macs - outside) * weight_bits * activation_bits + outside * FLOAT_BITOPS,
        params=sum(p.numel() for p in own.values()),
        size_bytes=_size_bytes(module, own, steps),
    )


def _size_bytes(module: Any, parameters: dict[str, Tensor], steps: list[Quantizer]) -> int:
    """Each tensor at its bits, rounded up to whole bytes; 4 bytes for every step, and for float values in float32."""
    size = 0
    for role, tensor in parameters.items():
        quantizer = quantizer_of(module, role)
        bits = quantizer.bit_width() if quantizer is not None else 8 * tensor.element_size()
        size += num_bytes(tensor.numel(), bits)
    size += sum(buffer.numel() * buffer.element_size() for buffer in stored_buffers(module))
    return size + sum(max(STEP_BYTES, quantizer.bits.element_size()) * quantizer.num_steps for quantizer in steps)
