"""Training: parts that work in anybody's loop: schedules, losses, sharpness, averaging, the life of batch norms."""

from . import batchnorm, schedules
from .averaging import QuantizedAverage, freeze_weight_steps_
from .batchnorm import freeze_batchnorm_, reestimate_batchnorm_
from .objective import Distillation, cross_entropy, distill, lipschitz
from .sharpness import Sharpness, SharpnessAware

__all__ = [
    "Distillation",
    "QuantizedAverage",
    "Sharpness",
    "SharpnessAware",
    "batchnorm",
    "cross_entropy",
    "distill",
    "freeze_batchnorm_",
    "freeze_weight_steps_",
    "lipschitz",
    "reestimate_batchnorm_",
    "schedules",
]
