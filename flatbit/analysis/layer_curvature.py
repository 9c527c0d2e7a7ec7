"""Curvature per layer: trace and top eigenvalue of each weight's own block of the Hessian (HAWQ, HAWQ-V2).

The trace by Hutchinson's estimate, one vector of signs for all layers at once: the blocks beside the diagonal have mean
zero. The eigenvalue by power iteration in each block.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..device import device_of
from ..modes import modes_kept
from ..progress import track
from ..quant.table import weighted_layers
from .curvature import Batch, hessian_vector_product


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCurvature:
    """A number per layer, and its standard error over probes; 0 where it is no estimate of a mean."""

    values: Mapping[str, float]
    errors: Mapping[str, float]


def layer_traces(model: nn.Module, batches: Sequence[Batch], *, probes: int = 16, seed: int = 0) -> LayerCurvature:
    """The trace of each weight's block of the mean cross-entropy's Hessian, in eval mode.

    Args:
        model: float, or quantized and calibrated, whose weights are then the latent ones; left as it is.
        batches: ``(x, y)``.
        probes: vectors of signs; the standard error falls as one over their root.
        seed: of the vectors.
    """
    data, layers = _ready(model, batches)
    variables = list(layers.values())
    stream = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {name: [] for name in layers}
    with modes_kept(model), torch.enable_grad():
        model.eval()
        for _ in track(range(probes), "trace"):
            v = [(torch.randint(2, t.shape, generator=stream) * 2 - 1).to(t) for t in variables]
            product = hessian_vector_product(model, data, variables, v)
            for name, a, b in zip(layers, v, product, strict=True):
                found[name].append(float((a * b).sum()))
    means = {name: sum(values) / probes for name, values in found.items()}
    errors = {name: _standard_error(values) for name, values in found.items()}
    return LayerCurvature(values=means, errors=errors)


def layer_eigenvalues(
    model: nn.Module, batches: Sequence[Batch], *, max_iterations: int = 20, tolerance: float = 1e-2, seed: int = 0
) -> LayerCurvature:
    """The eigenvalue of largest magnitude of each weight's block; else as ``layer_traces``.

    Args:
        model, batches, seed: as ``layer_traces`` has them.
        max_iterations: of each block, each a forward and two backwards.
        tolerance: stop where the value changes by a smaller share.
    """
    data, layers = _ready(model, batches)
    stream = torch.Generator().manual_seed(seed)
    values = {}
    with modes_kept(model), torch.enable_grad():
        model.eval()
        for name, weight in track(list(layers.items()), "eigenvalues"):
            v, last, value = torch.randn(weight.shape, generator=stream).to(weight), math.inf, 0.0
            for _ in range(max_iterations):
                v = v / v.norm()
                (product,) = hessian_vector_product(model, data, [weight], [v])
                value, v = float((v * product).sum()), product
                if value == 0 or abs(value - last) < tolerance * abs(value):
                    break
                last = value
            values[name] = value
    return LayerCurvature(values=values, errors=dict.fromkeys(values, 0.0))


def _ready(model: nn.Module, batches: Sequence[Batch]) -> tuple[list[Batch], dict[str, Tensor]]:
    device = device_of(model)
    data = [(x.to(device), y.to(device)) for x, y in batches]
    if not data:
        raise ValueError("no batches: curvature is that of a mean loss over some")
    return data, {name: layer.weight for name, layer in weighted_layers(model) if layer.weight.requires_grad}


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
