"""Proof of quantization: no number is reported for a model that is silently not quantized.

Each layer must hold the quantizers that its spec states. Then one batch runs through the model while
each quantizer's output is held against its grid and every matrix product and convolution is watched
for a float weight that slipped past its quantizer. The counts of distinct levels are part of the
result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from .. import plain
from .calls import mend
from .grid import Grid
from .outside_calls import OutsideCalls
from .producers import must_read_outputs, reads_watched, unquantized_words
from .products import ADDENDS, ELEMENTWISE
from .provenance import Provenance
from .quantizer import Quantizer
from .reparametrized import folded
from .run_order import RunOrder
from .spec import TensorSpec
from .table import Slot, is_matrix, quantized_layers, quantized_tensors, quantizer_of, quantizers_of, slots_of
from .tracking import Sources

PRODUCTS = ("convolution", "mm", "mv", "dot", "linear", "attention", "transformer", "rnn", "cdist")
"""What the names of operations that multiply matrices contain."""
COUNTED = 1 << 16
"""So many levels at most are counted one by one."""


class QuantizationError(RuntimeError):
    """The model computes with values that its stated quantization does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Distinct values of one tensor: how many were used, of how many the grid has."""

    used: int
    allowed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Levels used and allowed of every quantized tensor, by quantizer name, on one batch."""

    usage: dict[str, Usage] = field(default_factory=dict)

    def as_dict(self) -> dict[str, list[int]]:
        """``{quantizer: [used, allowed]}``, for JSON."""
        return {name: [usage.used, usage.allowed] for name, usage in self.usage.items()}

    @classmethod
    def from_dict(cls, found: Mapping[str, list[int]]) -> Proof:
        """Read ``as_dict``. Raises ValueError."""
        try:
            return cls(usage={name: Usage(used=used, allowed=allowed) for name, (used, allowed) in found.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{found!r:.60}: expected levels as {{quantizer: [used, allowed]}}") from error


plain.add_codec(Proof, Proof.as_dict, Proof.from_dict)


@torch.no_grad()
def prove(model: nn.Module, x: Tensor) -> Proof:
    """Check on one batch that every stated quantization is really in use.

    Args:
        model: quantized or float (then there is nothing to prove); its modes are left as they are. Weights that
            pruning or a parametrization computes are proved as what they are computed to.
        x: one batch, on the model's device.

    Returns:
        The distinct levels of each quantized tensor: of weights exactly, of activations on the batch
        (per channel where the step is).

    Raises:
        QuantizationError: a layer without the quantizers that its spec states (method, granularity,
            bits), a quantizer switched off or never called, a value off its grid, more levels than
            the bits allow, a float weight used in a product, a first or last layer that does not run first or last,
            a layer that reads unquantized activations though the policy counts them as quantized. Names the layer.
    """
    with folded(model.modules()):
        return _prove(model, x)


def _prove(model: nn.Module, x: Tensor) -> Proof:
    """``prove``, where every weight is a parameter."""
    for name, layer in quantized_layers(model):
        for slot in slots_of(layer):
            _check_slot(name, layer, slot)
    watched = dict(quantizers_of(model))
    levels: dict[str, Usage] = {}
    names = {quantizer: name for name, quantizer in watched.items()}

    def check(quantizer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(quantizer, Quantizer)
        levels[names[quantizer]] = _usage(quantizer, args[0], output)
        floats.provenance.depend(output)

    hooks = [quantizer.register_forward_hook(check) for quantizer in watched.values()]
    order, outside = RunOrder(model, x), OutsideCalls(model)
    reads, floats = _Reads(model), _NoFloatWeight(model, x)
    try:
        with reads_watched(model, reads.note), floats:
            model(x)
    finally:
        for hook in (*hooks, *order.hooks, *outside.hooks):
            hook.remove()
    if reads.too_wide:
        raise QuantizationError("; ".join(reads.too_wide))
    if reads.unquantized:
        raise QuantizationError(unquantized_words(model, reads.unquantized))
    if unread := outside.unread():
        raise QuantizationError(
            f"the quantized weights of {', '.join(map(repr, unread))} are used outside of their layers' calls, and "
            "nothing shows that what they multiply is quantized: call the layers"
        )
    if wrong := order.wrong_end(floats.provenance.read):
        raise QuantizationError(wrong)
    for name, quantizer in watched.items():
        if name not in levels:
            raise QuantizationError(
                f"{quantizer.site}: its quantizer was not called: the model does not run this layer's forward, so "
                "nothing shows that it is quantized. Call the layer, or leave it float, before quantize_: "
                f"{mend([quantizer.site.layer])}"
            )
    return Proof(usage=levels)


def _check_slot(name: str, layer: Any, slot: Slot) -> None:
    """A tensor has the quantizer of its spec, switched on. (DQ's ``bits`` say where its widths start.)"""
    quantizer = quantizer_of(layer, slot.name)
    computed = isinstance(getattr(layer, slot.name, None), Tensor) and slot.name not in layer._parameters
    if computed and slot.role in ("weight", "bias"):
        raise QuantizationError(
            f"{slot.name} of layer {name!r} is computed by something that is not known here, so nothing shows that "
            "what is multiplied is what was quantized: make it a parameter of the layer"
        )
    stated, found = _words(layer.spec.tensors.get(slot.name)), _words(quantizer)
    if found != stated:
        raise QuantizationError(
            f"{slot.name} of layer {name!r} has {found}, its spec states {stated}: the layer was changed, or got the "
            "state of another model, after quantize_. Call flatbit.assign_bits_ to change bits; else "
            "flatbit.restore_(model), then quantize_ with the policy that is meant, then calibrate_, or load_ a file "
            "of the same policy"
        )
    if quantizer is not None and not quantizer.enabled:
        raise QuantizationError(
            f"{slot.name} of layer {name!r}: its quantizer is switched off (inside as_float?): nothing is quantized"
        )


def _words(quantizer: Any) -> str:
    """Bits, method and granularity of a spec or a quantizer, to compare and to read."""
    if quantizer is None:
        return "no quantizer"
    if not isinstance(quantizer, Quantizer | TensorSpec):
        return f"{type(quantizer).__name__}, which is no quantizer"
    bits = quantizer.bits if isinstance(quantizer, TensorSpec) else quantizer.stated_bits
    return f"{bits} bit {quantizer.method} per {quantizer.granularity}"


@_disable_current_modes()  # what judges the model is no part of it: nothing of it is followed
def _usage(quantizer: Quantizer, x: Tensor, output: Tensor) -> Usage:
    grid = quantizer.grid(x)
    if output.numel() and not all(map(math.isfinite, map(float, output.aminmax()))):  # either end keeps NaN
        raise QuantizationError(f"{quantizer.site} is NaN or infinite: the run diverged, or a step collapsed")
    if grid.num_levels > 2 ** quantizer.bit_width():
        raise QuantizationError(
            f"{quantizer.site}: its grid {grid} has {grid.num_levels} levels, {quantizer.bit_width()} bits hold "
            f"{2 ** quantizer.bit_width()}: code_range of method {quantizer.method!r} is wrong"
        )
    try:
        codes = grid.codes(output)
    except ValueError as error:
        raise QuantizationError(
            f"{quantizer.site}: values off the stated grid {grid}: its quantizer's forward is not its grid"
        ) from error
    return Usage(used=_distinct(codes, grid), allowed=grid.num_levels)


def _distinct(codes: Tensor, grid: Grid) -> int:
    """How many different codes there are: counted level by level, which is linear, where there are few levels."""
    if grid.num_levels > COUNTED:
        return codes.unique().numel()
    return int(torch.bincount((codes - grid.low).flatten(), minlength=grid.num_levels).count_nonzero())


class _Reads:
    """Layers whose activations count as quantized where they are made must read levels of those quantizers, and zeros.

    Attributes:
        unquantized: the layers that read anything else.
        too_wide: what is said of layers that read activations of more bits than they are counted with.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(quantized_layers(model))
        self.unquantized: list[str] = []
        self.too_wide: list[str] = []

    @_disable_current_modes()
    def note(self, name: str, x: Tensor, sources: Sources | None) -> None:
        """Judge what a layer reads."""
        layer = self.layers[name]
        if not must_read_outputs(layer):
            return
        levels = x == 0  # padding adds nothing
        for quantizer in sources or ():
            levels |= quantizer.grid(x).holds(x)
            if quantizer.bit_width() > layer.spec.input_bits:
                self.too_wide.append(
                    f"activations of layer {name!r} count as {layer.spec.input_bits} bit, and it reads the "
                    f"{quantizer.bit_width()} bit {quantizer.site}: give both the same"
                )
        if name not in self.unquantized and not (sources and bool(levels.all())):
            self.unquantized.append(name)


@dataclass(frozen=True, slots=True)
class _Span:
    """The memory of a tensor: which bytes of which storage. Parameters may be views of one flat buffer."""

    storage: int
    begin: int
    end: int

    @classmethod
    def of(cls, x: Tensor) -> _Span:
        last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        return cls(x.untyped_storage().data_ptr(), x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size())

    def meets(self, other: _Span) -> bool:
        return self.storage == other.storage and self.begin < other.end and other.begin < self.end


class _NoFloatWeight(TorchDispatchMode):
    """Raise where a product reads a float weight that should have been quantized, or what was made of one.

    Attributes:
        provenance: to be told what the quantizers return: it is made of weights, and is quantized.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.latent = [
            (_Span.of(weight), slot.name, name)
            for name, layer in quantized_layers(model)
            for slot, _, weight in quantized_tensors(layer, "weight")
        ]
        self.storages = {span.storage for span, *_ in self.latent}
        self.provenance = Provenance(model, x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        product = any(part in name for part in PRODUCTS)
        read = [arg for arg in tree_leaves((args, kwargs)) if isinstance(arg, Tensor)]
        if product:
            self._refuse(func.__name__, chain.from_iterable(map(self._held, read)))
        if (product or name in ELEMENTWISE) and any(map(self.provenance.is_activation, read)):
            factors = [arg for arg in tree_leaves(args[ADDENDS.get(name, 0) :]) if isinstance(arg, Tensor)]
            self._refuse(func.__name__, chain.from_iterable(map(self._made_of, filter(is_matrix, factors))))
        output = func(*args, **kwargs)
        self.provenance.follow(name, read, output, ())
        return output

    def _held(self, x: Tensor) -> list[tuple[str, str]]:
        """The float weights whose memory a tensor is."""
        if x.untyped_storage().data_ptr() not in self.storages:
            return []
        span = _Span.of(x)
        return [(tensor, name) for latent, tensor, name in self.latent if latent.meets(span)]

    def _made_of(self, x: Tensor) -> list[tuple[str, str]]:
        """The float weights that a tensor is, or was computed from, and that no quantizer has made."""
        shares = self.provenance.shares(x, ())
        return [(tensor, name) for _, tensor, name in self.latent if name in shares]

    def _refuse(self, operation: str, found: Iterable[tuple[str, str]]) -> None:
        for tensor, name in found:
            raise QuantizationError(
                f"{tensor} of layer {name!r} entered {operation} in float: something reads layer.{tensor} "
                f"past its quantizer. Make its caller call it, or leave it float, before quantize_: {mend([name])}"
            )
