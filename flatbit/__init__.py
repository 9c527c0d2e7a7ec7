"""flatbit: neural networks of 1 to 8 bits, trained as five papers have it, in one PyTorch package."""

from . import analysis, data, models, quant, train
from .quant.calibrate import Calibration, calibrate_
from .quant.convert import quantize_, restore_
from .quant.cost import Cost, cost
from .quant.coverage import Coverage
from .quant.files import load, load_, save
from .quant.grid import Grid
from .quant.grids import grids
from .quant.policy import Policy
from .quant.presets import policy
from .quant.proof import QuantizationError
from .train.averaging import requantize_
from .train.evaluate import Metrics, evaluate

__all__ = [
    "Calibration",
    "Cost",
    "Coverage",
    "Grid",
    "Metrics",
    "Policy",
    "QuantizationError",
    "analysis",
    "calibrate_",
    "cost",
    "data",
    "evaluate",
    "grids",
    "load",
    "load_",
    "models",
    "policy",
    "quant",
    "quantize_",
    "requantize_",
    "restore_",
    "save",
    "train",
]
