"""Analyses: functions from a model and data to a frozen result; ``flatbit.figures`` draws the results.

An analysis leaves the model as it found it: parameters, buffers, modes and random state.
"""

from .curvature import Hessian, hessian

__all__ = ["Hessian", "hessian"]
