"""Quantization: grids, quantizers, policies, conversion, calibration, proof and cost."""

from .coverage import coverage_of
from .presets import preset_names
from .producers import note_producers_
from .proof import Proof, prove
from .quantizer import Quantizer
from .recompute import recomputed_outputs
from .switched import as_float
from .table import add_subclass, quantized_layers, quantizers_of

__all__ = [
    "Proof",
    "Quantizer",
    "add_subclass",
    "as_float",
    "coverage_of",
    "note_producers_",
    "preset_names",
    "prove",
    "quantized_layers",
    "quantizers_of",
    "recomputed_outputs",
]
