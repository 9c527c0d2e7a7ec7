"""The exact-type table: from float class to quantized class, its slots, and how its multiply-adds are counted.

A layer that is not here is not quantized. A class of your own enters by ``add_layer``; with one row and
one class it may have any slots, two weights of different shapes for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from ..registry import nearest
from ..wrappers import named_modules
from . import layers
from .layers import QUANTIZER, QuantizedLayer, with_quantized_output
from .quantizer import Quantizer
from .reparametrized import kind_of
from .spec import FLOAT_BITS, LayerSpec, TensorSpec

SLOT_ROLES = ("weight", "bias", "input", "output")
KINDS = ("convolution", "linear", "activation", "normalization")


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a layer that can be quantized.

    Attributes:
        name: of the tensor; its quantizer is the module ``NAME_quantizer``.
        role: what it is.
        channel_axis: of a weight: the axis of its output channels.
    """

    name: str
    role: Literal["weight", "bias", "input", "output"]
    channel_axis: int = 0

    def __post_init__(self) -> None:
        if self.role not in SLOT_ROLES:
            raise ValueError(f"slot {self.name!r}: role={self.role!r}: expected {' or '.join(map(repr, SLOT_ROLES))}")
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"slot {self.name!r}: expected the name of an attribute")
        if (self.role == "weight") == (self.name in SLOT_ROLES[1:]) or self.role not in ("weight", self.name):
            raise ValueError(
                f"slot {self.name!r} of role {self.role!r}: input, output and bias are called so, and a weight by the "
                "name of its parameter"
            )


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of a float class.

    Attributes:
        quantized: its quantized class.
        kind: what it is.
        slots: which of its tensors can be quantized, in the order that its forward uses them.
        macs: multiply-adds of a call, from the layer, its input and its output, whatever their first axis holds
            (images, windows, frames); None where it multiplies by no weight.
    """

    quantized: type[nn.Module]
    kind: Literal["convolution", "linear", "activation", "normalization"]
    slots: tuple[Slot, ...]
    macs: Callable[[Any, Tensor, Tensor], int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.quantized, type) or not issubclass(self.quantized, nn.Module):
            raise ValueError(f"row: quantized={self.quantized!r}: expected a class of modules")
        if why := self._fault():
            raise ValueError(f"row of {self.quantized.__name__}: {why}")

    def _fault(self) -> str:
        """What does not go together in it; empty where all does."""
        if self.kind not in KINDS:
            return f"kind={self.kind!r}: expected {' or '.join(map(repr, KINDS))}"
        if not isinstance(self.slots, tuple) or not all(isinstance(slot, Slot) for slot in self.slots):
            return f"slots={self.slots!r}: expected a tuple, as (INPUT, Slot('weight', 'weight'), BIAS)"
        roles, names = {slot.role for slot in self.slots}, [slot.name for slot in self.slots]
        if not names or len({*names}) < len(names):
            return f"slots {names}: expected one or more, each once"
        multiplies = self.kind in ("convolution", "linear")
        if multiplies and not callable(self.macs):
            return (
                f"macs={self.macs!r}: a {self.kind} layer says how many multiply-adds one image takes: "
                "a function of the layer, its input and its output, as linear_macs"
            )
        if multiplies and "weight" not in roles:
            return f"kind={self.kind!r}: expected a slot of role 'weight', which it multiplies by"
        if not multiplies and (self.macs is not None or {"weight", "input"} <= roles):
            return f"kind={self.kind!r}: what multiplies its input by a weight is 'linear' or 'convolution'"
        return ""


def linear_macs(layer: Any, _: Tensor, output: Tensor) -> int:
    """Each output meets every input feature."""
    return output.numel() * layer.in_features


def convolution_macs(layer: Any, x: Tensor, output: Tensor) -> int:
    """Each output, or each input of a transposed one, meets the kernels of its group."""
    met, others = (x, layer.out_channels) if layer.transposed else (output, layer.in_channels)
    return met.numel() * math.prod(layer.kernel_size) * others // layer.groups


INPUT, BIAS, OUTPUT = Slot("input", "input"), Slot("bias", "bias"), Slot("output", "output")
WEIGHTED = (INPUT, Slot("weight", "weight"), BIAS)
TRANSPOSED = (INPUT, Slot("weight", "weight", 1), BIAS)
NORMALIZED = (Slot("weight", "weight"), BIAS)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity,
)  # fmt: skip

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)

TABLE: dict[type[nn.Module], Row] = {
    nn.Linear: Row(layers.QLinear, "linear", WEIGHTED, linear_macs),
    nn.Conv1d: Row(layers.QConv1d, "convolution", WEIGHTED, convolution_macs),
    nn.Conv2d: Row(layers.QConv2d, "convolution", WEIGHTED, convolution_macs),
    nn.Conv3d: Row(layers.QConv3d, "convolution", WEIGHTED, convolution_macs),
    nn.ConvTranspose1d: Row(layers.QConvTranspose1d, "convolution", TRANSPOSED, convolution_macs),
    nn.ConvTranspose2d: Row(layers.QConvTranspose2d, "convolution", TRANSPOSED, convolution_macs),
    nn.BatchNorm1d: Row(layers.QBatchNorm1d, "normalization", NORMALIZED),
    nn.BatchNorm2d: Row(layers.QBatchNorm2d, "normalization", NORMALIZED),
    nn.BatchNorm3d: Row(layers.QBatchNorm3d, "normalization", NORMALIZED),
    **{base: Row(with_quantized_output(base), "activation", (OUTPUT,)) for base in ACTIVATIONS},
}
FLOAT_CLASS: dict[type[nn.Module], type[nn.Module]] = {row.quantized: base for base, row in TABLE.items()}
# Pickle looks a class up by name in its module; the generated ones have no name here yet.
for _row in TABLE.values():
    if _row.kind == "activation":
        setattr(layers, _row.quantized.__name__, _row.quantized)


def add_layer(base: type[nn.Module], row: Row) -> None:
    """Add a float class to the table: its quantized class, its slots, how its multiply-adds are counted.

    Raises ValueError for a class that is there already, as another one, a quantized class that is none of it, or
    what is no row. Whether a layer has the tensors that its slots name is checked by ``quantize_``.
    """
    if not isinstance(base, type) or not isinstance(row, Row):
        raise ValueError(f"add_layer: expected a class and its Row, got {base!r} and {row!r}")
    if not issubclass(row.quantized, base) or row.quantized is base:
        raise ValueError(f"{row.quantized.__name__}: expected a subclass of {base.__name__}, which it narrows")
    if base in TABLE and _path(TABLE[base].quantized) != _path(row.quantized):  # a file may be loaded again
        raise ValueError(f"{base.__name__} is in the table already, as {TABLE[base].quantized.__name__}")
    TABLE[base] = row
    FLOAT_CLASS[row.quantized] = base


def check_tensors(model: nn.Module) -> None:
    """Raise ValueError for a layer without a weight or bias that its row names; one that is None is lawful."""
    for name, module in model.named_modules():
        for slot in slots_of(module, "weight", "bias"):
            held = (module._parameters, module._buffers, vars(module), dir(type(module)))
            if not any(slot.name in names for names in held):
                raise ValueError(
                    f"layer {name!r}: by its row in the table {type(module).__name__} has a {slot.role} {slot.name!r}, "
                    f"and it has no such parameter: {nearest(slot.name, module._parameters)}"
                )


def _path(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def row_of(module: nn.Module) -> Row | None:
    """The table's row for a module's exact kind, float or quantized, parametrized or not; None where there is none."""
    kind = kind_of(module)
    return TABLE.get(FLOAT_CLASS.get(kind, kind))


def is_quantized(module: nn.Module) -> bool:
    """Whether the module is of a quantized class."""
    return kind_of(module) in FLOAT_CLASS


def is_weighted(module: nn.Module) -> bool:
    """Whether a module multiplies by a weight that the table knows: a convolution or linear layer."""
    row = row_of(module)
    return row is not None and row.macs is not None


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every convolution and linear layer of a model, float or quantized, by name, each once."""
    return ((name, module) for name, module in named_modules(model) if is_weighted(module))


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Every quantized layer of a model, by name, each once."""
    return ((name, cast(QuantizedLayer, module)) for name, module in named_modules(model) if is_quantized(module))


def has_quantized_layers(model: nn.Module) -> bool:
    """Whether any layer of a model is of a quantized class."""
    return next(quantized_layers(model), None) is not None


def quantizers_of(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Every quantizer of a model, by name, each once (tied weights share theirs)."""
    return ((name, module) for name, module in named_modules(model) if isinstance(module, Quantizer))


def slots_of(module: nn.Module, *roles: str) -> tuple[Slot, ...]:
    """The slots of a module that the table knows, all of them or those of some roles."""
    row = row_of(module)
    return tuple(slot for slot in row.slots if not roles or slot.role in roles) if row else ()


def quantizer_of(layer: nn.Module, slot: str) -> Quantizer | None:
    """The quantizer of a layer's slot; None where its tensor is float."""
    return cast("Quantizer | None", getattr(layer, slot + QUANTIZER, None))


def quantized_tensors(layer: nn.Module, *roles: str) -> Iterator[tuple[Slot, Quantizer, nn.Parameter]]:
    """Slot, quantizer and parameter of each of a layer's quantized weights and biases, or those of some roles."""
    for slot in slots_of(layer, *(roles or ("weight", "bias"))):
        quantizer, parameter = quantizer_of(layer, slot.name), getattr(layer, slot.name, None)
        if quantizer is not None and parameter is not None:
            yield slot, quantizer, parameter


def own_weights(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of two axes or more that a module holds itself: what its products may read.

    ``torch.nn.utils.parametrize`` moves them one module down; they count as the module's. Norms,
    whose parameters scale and shift, and quantizers, whose parameters are steps, hold none.
    """
    if isinstance(module, (*NORMS, Quantizer, ParametrizationList)):
        return []
    moved = getattr(module, "parametrizations", nn.ModuleDict())
    held = [p for holder in (module, *moved.children()) for p in holder.parameters(recurse=False)]
    return [p for p in held if not is_lazy(p) and p.ndim > 1]


def has_unknown_products(module: nn.Module) -> bool:
    """Whether a module that the table does not know holds a matrix, which a product of its own may read.

    A vector, whatever its axes (a scale of shape (1, C, 1, 1), a token), is none, nor is a look-up table.
    """
    if row_of(module) is not None or isinstance(module, LOOKED_UP):
        return False
    return any(map(is_matrix, own_weights(module)))


def is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor has more than one axis of more than one element."""
    return sum(n > 1 for n in tensor.shape) > 1


def bits_of(layer: Any) -> tuple[int, int]:
    """Bits of a layer's weight and input in use: those learned where a method learns them (DQ), 32 for float.

    An input without a quantizer of its own has the bits that the policy counts it with. Of several weights the
    widest counts.
    """
    if not is_quantized(layer):
        return FLOAT_BITS, FLOAT_BITS
    weights = [quantizer_of(layer, slot.name) for slot in slots_of(layer, "weight")]
    read = quantizer_of(layer, "input")
    return (
        max((q.bit_width() if q is not None else FLOAT_BITS for q in weights), default=FLOAT_BITS),
        read.bit_width() if read is not None else layer.spec.input_bits,
    )


def tensor_specs(module: nn.Module, *roles: str) -> list[TensorSpec]:
    """The specs of a module's quantized tensors, all of them or those of some roles; none of a float module."""
    spec = spec_of(module)
    tensors = {} if spec is None else spec.tensors
    return [tensors[slot.name] for slot in slots_of(module, *roles) if slot.name in tensors]


def spec_of(module: nn.Module) -> LayerSpec | None:
    """The spec a module was quantized by; None for a float module."""
    return cast(QuantizedLayer, module).spec if is_quantized(module) else None
