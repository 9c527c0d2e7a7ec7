"""Coverage: what ``quantize_`` did with each layer, as a result that prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rich.table import Table
from torch import nn

from ..models.shared import shared_modules
from ..text import as_text
from ..wrappers import named_modules
from .calls import READ_PAST, read_past
from .convention import Convention, convention
from .products import Products
from .quantizer import Quantizer
from .refusals import refusals
from .reparametrized import folded
from .spec import LayerSpec, TensorSpec
from .table import (
    LOOKED_UP,
    NORMS,
    has_unknown_products,
    is_quantized,
    is_weighted,
    own_weights,
    quantized_layers,
    quantized_tensors,
    spec_of,
    tensor_specs,
)

NOTICEABLE = 0.01
"""Share of exact zeros from which weights were pruned: trained ones have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCoverage:
    """What became of one layer: ``quantized``, ``float`` by policy, or ``refused``, and why.

    Attributes:
        weights: the specs of its quantized weights.
        num_weights, num_quantized: how many numbers its weights have, and those that are quantized: none of a layer
            whose weight the model's code reads past its call.
        zeros: share of exact zeros among weights whose grid has no zero, where it is 1 % or more (pruned): they
            become half a step up or down.
    """

    name: str
    type: str
    status: Literal["quantized", "float", "refused"]
    spec: LayerSpec | None = None
    weights: tuple[TensorSpec, ...] = ()
    num_weights: int = 0
    num_quantized: int = 0
    zeros: float = 0.0
    reason: str = ""

    @property
    def note(self) -> str:
        """Why it is float or refused; of a quantized one its role, what else is to know, what becomes of its zeros."""
        if self.status != "quantized":
            return self.reason
        role = self.reason or (self.spec.role if self.spec is not None else "")
        if not self.zeros:
            return role
        return f"{role}; {self.zeros:.0%} of its weights are zero, and its grid has no zero: each becomes half a step"


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What ``quantize_`` did, layer by layer. Prints as a table.

    Attributes:
        convention: the resolved rules that results must be read with.
        layers: every layer that has weights or got a quantizer; where the policy keeps norms in fixed
            point, those that stay float too.
    """

    convention: Convention
    layers: tuple[LayerCoverage, ...]

    @property
    def quantized(self) -> list[LayerCoverage]:
        """Layers with at least one quantizer."""
        return [layer for layer in self.layers if layer.status == "quantized"]

    @property
    def kept_float(self) -> list[LayerCoverage]:
        """Layers that the policy leaves in float."""
        return [layer for layer in self.layers if layer.status == "float"]

    @property
    def refused(self) -> list[LayerCoverage]:
        """Layers that cannot be quantized right, and so were not."""
        return [layer for layer in self.layers if layer.status == "refused"]

    @property
    def fraction(self) -> float:
        """Share of all layer weights that is quantized, 0 to 1."""
        total = sum(layer.num_weights for layer in self.layers)
        return sum(layer.num_quantized for layer in self.layers) / max(total, 1)

    def __str__(self) -> str:
        table = Table("layer", "type", "weights", "weight bits", "activation bits", "note", title="coverage")
        for layer in self.layers:
            spec = layer.spec or LayerSpec(policy="")
            table.add_row(
                layer.name, layer.type, f"{layer.num_weights:,}", _describe(*layer.weights),
                _describe(spec.input or spec.output), layer.note,
            )  # fmt: skip
        return as_text(table, f"{self.fraction:.1%} of the weights quantized. {self.convention}")


def coverage_of(model: nn.Module, refused: dict[str, str] | None = None, ran: Products | None = None) -> Coverage:
    """The coverage of a model as it stands: modules with weights, and those with quantizers.

    Args:
        model: any module.
        refused: why layers were refused, by name; None for what ``refusals`` finds.
        ran: what a float run multiplied, which tells of modules that hold weights themselves.
    """
    refused = refusals(model, ran) if refused is None else refused
    with folded(layer for _, layer in quantized_layers(model)):
        return _coverage(model, refused, ran)


def _coverage(model: nn.Module, refused: dict[str, str], ran: Products | None) -> Coverage:
    stated = convention(model)
    fixed_point = "fixed point" in (stated.batch_norm, stated.bias)
    places, past = _output_places(model), read_past(model)
    layers = []
    for name, module in named_modules(model):
        if is_quantized(module):
            reason = READ_PAST if name in past else _why_noted(name, module, places)
            row = _row(name, module, "quantized", spec=spec_of(module), reason=reason)
            layers.append(replace(row, num_quantized=0) if name in past else row)
        elif name in refused:
            layers.append(_row(name, module, "refused", reason=refused[name]))
        elif has_unknown_products(module) and ran is not None and ran.leaves_alone(name):
            layers.append(_row(name, module, "float", reason="met nothing in a product when it ran: stays float"))
        elif reason := _why_float(module, fixed_point):
            layers.append(_row(name, module, "float", reason=reason))
    return Coverage(convention=stated, layers=tuple(layers))


def _output_places(model: nn.Module) -> dict[str, int]:
    """In how many places each activation that is quantized at its output is used; empty where none is."""
    outputs = {name for name, module in model.named_modules() if tensor_specs(module, "output")}
    if not outputs:
        return {}
    shared = shared_modules(model)
    return {name: shared.get(name, 1) for name in outputs}


def _why_noted(name: str, module: nn.Module, places: Mapping[str, int]) -> str:
    """What a user must know of a quantized layer where activations are quantized at outputs."""
    if places.get(name, 1) > 1:
        return (
            f"used in {places[name]} places, which get one step: flatbit.split_shared_(model) before quantize_ gives "
            "each its own"
        )
    spec = spec_of(module)
    if places and spec is not None and spec.input is not None and spec.role in ("inner", "shortcut"):
        return f"{spec.role}, quantized at its own input"
    return ""


def _why_float(module: nn.Module, fixed_point: bool) -> str:
    """Why a module with weights is float; empty where it has none (or is a norm no policy speaks of)."""
    if isinstance(module, LOOKED_UP):
        return "a look-up table, not a product: stays float"
    if is_weighted(module) or has_unknown_products(module):
        return "float by policy"
    if own_weights(module):
        return "vectors only (scales, tokens): stays float"
    if fixed_point and isinstance(module, NORMS) and any(True for _ in module.parameters(recurse=False)):
        return f"no fixed-point form of {type(module).__name__}: its scale and shift stay float"
    return ""


def _row(
    name: str,
    module: nn.Module,
    status: Literal["quantized", "float", "refused"],
    spec: LayerSpec | None = None,
    reason: str = "",
) -> LayerCoverage:
    quantized = {id(parameter) for _, _, parameter in quantized_tensors(module, "weight")}
    sizes = [(weight.numel(), id(weight) in quantized) for weight in own_weights(module)]
    return LayerCoverage(
        name=name,
        type=type(module).__name__,
        status=status,
        spec=spec,
        weights=tuple(tensor_specs(module, "weight")),
        num_weights=sum(size for size, _ in sizes),
        num_quantized=sum(size for size, counts in sizes if counts),
        zeros=_lost_zeros(module),
        reason=reason,
    )


def _lost_zeros(module: nn.Module) -> float:
    """Share of exact zeros among a layer's weights on grids without zero; 0 below what chance leaves."""
    found = [w for _, q, w in quantized_tensors(module, "weight") if is_weighted(module) and not _grid_has_zero(q, w)]
    count = sum(weight.numel() for weight in found if not weight.is_meta)
    zeros = sum(int((weight == 0).sum()) for weight in found if not weight.is_meta)
    return zeros / count if count and zeros >= NOTICEABLE * count else 0.0


def _grid_has_zero(quantizer: Quantizer, weight: nn.Parameter) -> bool:
    return float(quantizer.code_range(weight.detach()).offset).is_integer()


def _describe(*specs: TensorSpec | None) -> str:
    """Bits and methods of some tensors, each once."""
    known = [spec for spec in specs if spec is not None]
    said = [f"{spec.bits} {spec.method}" + " /channel" * (spec.granularity == "channel") for spec in known]
    return ", ".join(dict.fromkeys(said)) or "float"
