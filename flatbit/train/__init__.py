"""Training: schedules, the one loop, evaluation, batch-norm life, checkpoints and runs."""

from . import batchnorm, health, objective, recipe, run, schedule
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
    "health",
    "lipschitz",
    "objective",
    "recipe",
    "reestimate_batchnorm_",
    "run",
    "schedule",
]
