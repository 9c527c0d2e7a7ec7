"""Quantization: grids, quantizers, policies, conversion, calibration, proof and cost."""

from .convert import as_float
from .coverage import coverage_of
from .layers import quantized_layers, quantizers_of
from .presets import preset_names
from .proof import Proof, prove
from .quantizer import Quantizer

__all__ = [
    "Proof",
    "Quantizer",
    "as_float",
    "coverage_of",
    "preset_names",
    "prove",
    "quantized_layers",
    "quantizers_of",
]
