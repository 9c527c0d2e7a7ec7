"""Coverage: what ``quantize_`` did with each layer, as a result that prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from torch import nn

from ..text import as_text
from ..wrappers import named_modules
from .convention import Convention, convention
from .refusals import refusals
from .spec import LayerSpec, TensorSpec
from .table import (
    LOOKED_UP,
    NORMS,
    has_unknown_products,
    is_quantized,
    is_weighted,
    own_weights,
    quantized_tensors,
    spec_of,
    tensor_specs,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCoverage:
    """What became of one layer: ``quantized``, ``float`` by policy, or ``refused``, and why.

    Attributes:
        weights: the specs of its quantized weights.
        num_weights, num_quantized: how many numbers its weights have, and those that are quantized.
    """

    name: str
    type: str
    status: Literal["quantized", "float", "refused"]
    spec: LayerSpec | None = None
    weights: tuple[TensorSpec, ...] = ()
    num_weights: int = 0
    num_quantized: int = 0
    reason: str = ""


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
                _describe(spec.input or spec.output), layer.reason if layer.status != "quantized" else spec.role,
            )  # fmt: skip
        return as_text(table, f"{self.fraction:.1%} of the weights quantized. {self.convention}")


def coverage_of(model: nn.Module, refused: dict[str, str] | None = None) -> Coverage:
    """The coverage of a model as it stands: modules with weights, and those with quantizers.

    Args:
        model: any module.
        refused: why layers were refused, by name; None for what ``refusals`` finds.
    """
    refused = refusals(model) if refused is None else refused
    stated = convention(model)
    fixed_point = "fixed point" in (stated.batch_norm, stated.bias)
    layers = []
    for name, module in named_modules(model):
        if is_quantized(module):
            layers.append(_row(name, module, "quantized", spec=spec_of(module)))
        elif name in refused:
            layers.append(_row(name, module, "refused", reason=refused[name]))
        elif reason := _why_float(module, fixed_point):
            layers.append(_row(name, module, "float", reason=reason))
    return Coverage(convention=stated, layers=tuple(layers))


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
        reason=reason,
    )


def _describe(*specs: TensorSpec | None) -> str:
    """Bits and methods of some tensors, each once."""
    known = [spec for spec in specs if spec is not None]
    said = [f"{spec.bits} {spec.method}" + " /channel" * (spec.granularity == "channel") for spec in known]
    return ", ".join(dict.fromkeys(said)) or "float"
