"""Curvature times squared weight error: HAWQ-V2's trace, HAWQ's top eigenvalue, of each layer's block."""

from __future__ import annotations

from ...analysis.layer_curvature import layer_eigenvalues, layer_traces
from ...quant.table import weighted_layers
from ..sensitivity import MEASURES, Probe, weight_error
from ..space import Choice


def trace_times_error(probe: Probe, choice: Choice, bits: int) -> float:
    """``Tr(H_l) / n_l |Q(w) - w|^2``, summed over the layers (HAWQ-V2, eq. 7); weights alone."""
    traces = probe.once("traces", lambda: layer_traces(probe.model, probe.batches).values)
    sizes = {name: layer.weight.numel() for name, layer in weighted_layers(probe.model)}
    return sum(traces[name] / sizes[name] * error for name, error in weight_error(probe, choice, bits).items())


def eigenvalue_times_error(probe: Probe, choice: Choice, bits: int) -> float:
    """``lambda_max(H_l) |Q(w) - w|^2``, summed over the layers (HAWQ); weights alone."""
    found = probe.once("eigenvalues", lambda: layer_eigenvalues(probe.model, probe.batches).values)
    return sum(found[name] * error for name, error in weight_error(probe, choice, bits).items())


MEASURES.add("trace", trace_times_error)
MEASURES.add("eigenvalue", eigenvalue_times_error)
