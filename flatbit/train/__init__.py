"""Training: parts that work in anybody's loop: schedules, losses, sharpness, averaging, the life of batch norms."""

from . import batchnorm, losses, optimizers, schedules
from .averaging import QuantizedAverage, freeze_weight_steps_
from .batchnorm import freeze_batchnorm_, reestimate_batchnorm_
from .losses.labels import CrossEntropy, cross_entropy
from .losses.orthogonality import Lipschitz, lipschitz
from .losses.teacher import Distillation, distill
from .sharpness import Sharpness, SharpnessAware

__all__ = [
    "CrossEntropy",
    "Distillation",
    "Lipschitz",
    "QuantizedAverage",
    "Sharpness",
    "SharpnessAware",
    "batchnorm",
    "cross_entropy",
    "distill",
    "freeze_batchnorm_",
    "freeze_weight_steps_",
    "lipschitz",
    "losses",
    "optimizers",
    "reestimate_batchnorm_",
    "schedules",
]
