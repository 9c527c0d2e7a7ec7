"""Coverage: what ``quantize_`` did with each layer, as a result that prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from torch import nn

from .convention import Convention, convention
from .layers import is_quantized, row_of
from .policy import LayerSpec, TensorSpec, spec_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCoverage:
    """What became of one layer: ``quantized``, ``float`` by policy, or ``refused``, and why."""

    name: str
    type: str
    status: Literal["quantized", "float", "refused"]
    spec: LayerSpec | None = None
    num_weights: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What ``quantize_`` did, layer by layer. Prints as a table.

    Attributes:
        convention: the resolved rules that results must be read with.
        layers: every layer that has weights or got a quantizer.
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
        return sum(layer.num_weights for layer in self.quantized if layer.spec and layer.spec.weight) / max(total, 1)

    def __str__(self) -> str:
        table = Table("layer", "type", "weights", "weight bits", "activation bits", "note", title="coverage")
        for layer in self.layers:
            spec = layer.spec or LayerSpec(policy="")
            table.add_row(
                layer.name, layer.type, f"{layer.num_weights:,}", _describe(spec.weight),
                _describe(spec.input or spec.output), layer.reason if layer.status != "quantized" else spec.role,
            )  # fmt: skip
        console = Console(width=120)
        with console.capture() as capture:
            console.print(table)
            console.print(f"{self.fraction:.1%} of the weights quantized. {self.convention}", soft_wrap=True)
        return capture.get().rstrip()


def coverage(model: nn.Module, refusals: dict[str, str] | None = None) -> Coverage:
    """The coverage of a model as it stands: layers with weights, and activations with quantizers.

    Args:
        model: any module.
        refusals: why layers were refused, by name.
    """
    refusals = refusals or {}
    layers = []
    for name, module in model.named_modules():
        row = row_of(module)
        weighted = row is not None and row.kind in ("convolution", "linear")
        if name in refusals:
            layers.append(_row(name, module, "refused", reason=refusals[name]))
        elif is_quantized(module):
            layers.append(_row(name, module, "quantized", spec=spec_of(module)))
        elif weighted:
            layers.append(_row(name, module, "float", reason="float by policy"))
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            layers.append(_row(name, module, "float", reason="a look-up table, not a product: stays float"))
    return Coverage(convention=convention(model), layers=tuple(layers))


def _row(
    name: str,
    module: nn.Module,
    status: Literal["quantized", "float", "refused"],
    spec: LayerSpec | None = None,
    reason: str = "",
) -> LayerCoverage:
    row = row_of(module)
    own = [p for p in module.parameters(recurse=status == "refused") if p.ndim > 1]
    num_weights = 0 if row is not None and row.kind == "activation" else sum(p.numel() for p in own)
    return LayerCoverage(
        name=name, type=type(module).__name__, status=status, spec=spec, num_weights=num_weights, reason=reason
    )


def _describe(spec: TensorSpec | None) -> str:
    return (
        "float"
        if spec is None
        else f"{spec.bits} {spec.method}" + (" /channel" if spec.granularity == "channel" else "")
    )
