"""flatbit: neural networks of 1 to 8 bits, trained as five papers have it, in one PyTorch package."""

from . import analysis, data, engine, export, figures, metrics, models, quant, train
from .files import load, load_, save
from .metrics.evaluation import Metrics, evaluate
from .models.shared import split_shared_
from .quant.assignment import assign_bits_, assignment
from .quant.calibrate import Calibration, calibrate_
from .quant.convert import quantize_, restore_
from .quant.cost import Cost, cost
from .quant.coverage import Coverage
from .quant.grid import Grid
from .quant.grids import grids
from .quant.policy import Policy
from .quant.presets import policy
from .quant.proof import QuantizationError
from .shipped import trained
from .train.averaging import requantize_
from .version import VERSION as __version__  # noqa: N811

__all__ = [
    "Calibration",
    "Cost",
    "Coverage",
    "Grid",
    "Metrics",
    "Policy",
    "QuantizationError",
    "__version__",
    "analysis",
    "assign_bits_",
    "assignment",
    "calibrate_",
    "cost",
    "data",
    "engine",
    "evaluate",
    "export",
    "figures",
    "grids",
    "load",
    "load_",
    "metrics",
    "models",
    "policy",
    "quant",
    "quantize_",
    "requantize_",
    "restore_",
    "save",
    "split_shared_",
    "train",
    "trained",
]


def __dir__() -> list[str]:
    return __all__
