"""Training: schedules, the one loop, evaluation, batch-norm life, checkpoints and runs."""

from .averaging import QuantizedAverage, freeze_weight_steps_
from .sharpness import Sharpness, SharpnessAware

__all__ = ["QuantizedAverage", "Sharpness", "SharpnessAware", "freeze_weight_steps_"]
