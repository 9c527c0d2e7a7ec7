"""Analyses: functions from a model and data to a frozen result; ``flatbit.figures`` draws the results.

An analysis leaves the model as it found it: parameters, buffers, modes and random state.
"""

from .curvature import Hessian, hessian
from .landscape import Landscapes, loss_landscape
from .plane import LossPlane, loss_plane

__all__ = ["Hessian", "Landscapes", "LossPlane", "hessian", "loss_landscape", "loss_plane"]
