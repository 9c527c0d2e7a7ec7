"""Proof of quantization: no number is reported for a model that is silently not quantized.

Each layer must hold the quantizers that its spec states. Then one batch runs through the model while
each quantizer's output is held against its grid and every matrix product and convolution is watched
for a float weight that slipped past its quantizer. The counts of distinct levels are part of the
result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .. import plain
from .edges import RunOrder
from .layers import (
    FLOAT_BITS,
    SLOTS,
    quantized_layers,
    quantizers_of,
    row_of,
)
from .policy import TensorSpec
from .quantizer import Quantizer

PRODUCTS = ("convolution", "addmm", "mm", "bmm", "baddbmm", "linear", "attention", "transformer")


class QuantizationError(RuntimeError):
    """The model computes with values that its stated quantization does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """Distinct values of one tensor: how many were used, of how many the grid has."""

    used: int
    allowed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Levels used and allowed of every quantized tensor, by quantizer name, on one batch."""

    levels: dict[str, Levels] = field(default_factory=dict)

    def as_dict(self) -> dict[str, list[int]]:
        """``{quantizer: [used, allowed]}``, for JSON."""
        return {name: [levels.used, levels.allowed] for name, levels in self.levels.items()}

    @classmethod
    def from_dict(cls, found: Mapping[str, list[int]]) -> Proof:
        """Read ``as_dict``. Raises ValueError."""
        try:
            return cls(levels={name: Levels(used=used, allowed=allowed) for name, (used, allowed) in found.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{found!r:.60}: expected levels as {{quantizer: [used, allowed]}}") from error


plain.add_codec(Proof, Proof.as_dict, Proof.from_dict)


@torch.no_grad()
def prove(model: nn.Module, x: Tensor) -> Proof:
    """Check on one batch that every stated quantization is really in use.

    Args:
        model: quantized or float (then there is nothing to prove); its modes are left as they are.
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
    for name, layer in quantized_layers(model):
        for slot in SLOTS:
            _check_slot(name, layer, slot.removesuffix("_quantizer"))
    watched = dict(quantizers_of(model))
    levels: dict[str, Levels] = {}
    names = {quantizer: name for name, quantizer in watched.items()}

    def check(quantizer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(quantizer, Quantizer)
        levels[names[quantizer]] = _levels(quantizer, args[0], output)

    hooks = [quantizer.register_forward_hook(check) for quantizer in watched.values()]
    hooks += [layer.register_forward_pre_hook(_InputCheck(name)) for name, layer in quantized_layers(model)]
    order = RunOrder(model, x)
    try:
        with _NoFloatWeight(model):
            model(x)
    finally:
        for hook in (*hooks, *order.hooks):
            hook.remove()
    if wrong := order.wrong_edge():
        raise QuantizationError(wrong)
    for name, quantizer in watched.items():
        if name not in levels:
            raise QuantizationError(
                f"{quantizer.site}: its quantizer was not called: the model does not run this layer's forward, so "
                f"nothing shows that it is quantized. Leave it float with policy.override({quantizer.site.layer!r}, "
                "weights=32, activations=32), or call the layer"
            )
    return Proof(levels=levels)


def _check_slot(name: str, layer: Any, role: str) -> None:
    """A tensor has the quantizer of its spec, switched on. (DQ's ``bits`` say where its widths start.)"""
    spec, quantizer = getattr(layer.spec, role), layer._modules.get(f"{role}_quantizer")
    absent = role in ("weight", "bias") and getattr(layer, role, None) is None  # a norm without affine has a spec
    stated, found = _words(None if absent else spec), _words(quantizer)
    if found != stated:
        raise QuantizationError(
            f"{role} of layer {name!r} has {found}, its spec states {stated}: the layer was changed, or got the state "
            "of another model, after quantize_. Call flatbit.restore_(model), then quantize_ with the policy that is "
            "meant, then calibrate_, or load_ a file of the same policy"
        )
    if quantizer is not None and not quantizer.enabled:
        raise QuantizationError(
            f"{role} of layer {name!r}: its quantizer is switched off (inside as_float?): nothing is quantized"
        )


def _words(quantizer: Any) -> str:
    """Bits, method and granularity of a spec or a quantizer, to compare and to read."""
    if quantizer is None:
        return "no quantizer"
    if not isinstance(quantizer, Quantizer | TensorSpec):
        return f"{type(quantizer).__name__}, which is no quantizer"
    return f"{int(quantizer.bits)} bit {quantizer.method} per {quantizer.granularity}"


def _levels(quantizer: Quantizer, x: Tensor, output: Tensor) -> Levels:
    grid = quantizer.grid(x)
    if not bool(output.isfinite().all()):
        raise QuantizationError(f"{quantizer.site} is NaN or infinite: the run diverged, or a step collapsed")
    if not grid.contains(output):
        raise QuantizationError(
            f"{quantizer.site}: values off the stated grid {grid}: its quantizer's forward is not its grid"
        )
    used = int(grid.codes(output).unique().numel())
    return Levels(used=used, allowed=grid.num_levels)


class _InputCheck:
    """A layer whose activations count as quantized, but has no input quantizer, must read few values."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, layer: Any, args: tuple[Tensor, ...]) -> None:
        bits = layer.spec.input_bits
        row = row_of(layer)
        weighted = row is not None and row.kind in ("convolution", "linear")
        if not weighted or layer.input_quantizer is not None or bits == FLOAT_BITS or layer.spec.role == "first":
            return
        if not args:  # called by keyword: what it reads is not seen here
            raise QuantizationError(
                f"layer {self.name!r} is called by keyword, which hides its input from this check: call it as layer(x)"
            )
        distinct = args[0].unique().numel()
        if distinct > 2**bits:
            raise QuantizationError(
                f"input of layer {self.name!r} counts as {bits} bit but has {distinct} distinct values: no quantized "
                f"activation feeds it. Give it its own: policy.override({self.name!r}, activations={bits}, here=True), "
                "or placement='input'"
            )


class _NoFloatWeight(TorchDispatchMode):
    """Raise where a product reads the memory of a float weight that should have been quantized."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.latent = {
            layer.weight.untyped_storage().data_ptr(): name
            for name, layer in quantized_layers(model)
            if layer._modules.get("weight_quantizer") is not None
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(product in func.__name__ for product in PRODUCTS):
            for arg in tree_leaves(args):
                if isinstance(arg, Tensor) and (name := self.latent.get(arg.untyped_storage().data_ptr())) is not None:
                    raise QuantizationError(
                        f"weight of layer {name!r} entered {func.__name__} in float: something reads layer.weight past "
                        "layer.quantized_weight(). Leave the layer float by policy, or make its caller call the layer"
                    )
        return func(*args, **(kwargs or {}))
