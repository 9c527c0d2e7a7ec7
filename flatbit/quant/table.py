"""The exact-type table: from float class to quantized class, its slots, and how its multiply-adds are counted.

A layer that is not here is not quantized. A class of your own enters by ``add_layer``; with one row and
one class it may have any slots, two weights of different shapes for one. A subclass that computes what its base does
enters by ``add_subclass``, or by itself where it only renames (``alike``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from ..registry import nearest
from ..wrappers import named_modules
from . import layers
from .alike import base_of, computes_as, narrowed
from .layers import QUANTIZER, QuantizedLayer, with_quantized_output
from .quantizer import Quantizer
from .reparametrized import kind_of
from .row import Row, Slot, convolution_macs, linear_macs
from .spec import FLOAT_BITS, LayerSpec, TensorSpec

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
SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {}
"""Subclasses that compute what a class of the table does, each with that class."""
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


def add_subclass(kind: type[nn.Module]) -> None:
    """Declare that a subclass of a class in the table computes what its base does, and is quantized as it.

    For a forward that casts, logs or checks, and else multiplies by the weight and adds the bias as the base does. What
    it does besides is left out of a quantized layer, whose forward is that of the base's quantized class.

    Raises ValueError for what is no subclass of a class in the table.
    """
    base = base_of(kind, TABLE) if isinstance(kind, type) else None
    if base is None:
        raise ValueError(
            f"add_subclass: expected a subclass of {', '.join(each.__name__ for each in list(TABLE)[:6])} or another "
            f"class in the table, got {kind!r}: add_layer takes a class of another kind, with its Row"
        )
    if kind not in TABLE:
        add_layer(kind, replace(TABLE[base], quantized=narrowed(TABLE[base].quantized, kind, _made)))
        SUBCLASSES[kind] = SUBCLASSES.get(base, base)


def _made(kind: type[nn.Module]) -> nn.Module:
    """An empty instance of the quantized class of a subclass, as pickle asks for in another process."""
    add_subclass(kind)
    quantized = TABLE[kind].quantized
    return quantized.__new__(quantized)


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
    """The table's row for a module's kind, float or quantized, parametrized or not; None where there is none.

    A subclass that only renames gets the row of its base.
    """
    kind = kind_of(module)
    kind = FLOAT_CLASS.get(kind, kind)
    if kind not in TABLE and (base := base_of(kind, TABLE)) is not None and computes_as(kind, base):
        add_subclass(kind)
    return TABLE.get(kind)


def plain_kind(module: nn.Module) -> type[nn.Module]:
    """The float class that a module computes as: its own, or the base of a subclass that is quantized as it."""
    kind = kind_of(module)
    kind = FLOAT_CLASS.get(kind, kind)
    return kind if row_of(module) is None else SUBCLASSES.get(kind, kind)


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
