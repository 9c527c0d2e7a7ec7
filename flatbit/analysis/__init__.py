"""Analyses: functions from a model and data to a frozen result; ``flatbit.figures`` draws the results.

An analysis leaves the model as it found it: parameters, buffers, modes and random state.

decision_map        what a net of points in the plane says everywhere, and where it is wrong
diagnose            is a quantized net healthy, and would it stay so under further updates
hessian             the top eigenvalue of the loss' Hessian: how sharp the minimum is
layer_eigenvalues   the same of each layer's own block
layer_traces        the trace of each layer's own block
loss_landscape      the loss along random directions, filter by filter, of models on one scale
loss_plane          loss and accuracy on the plane through three models, on the quantized grid
misread             the test images that a net gets wrong, or several nets beside each other
schedule_curves     learning rate and batch of each stage of a recipe
segments            what nets make of images, pixel by pixel
weight_histograms   each layer's latent weights, and the levels that they are rounded to
"""

from .curvature import Hessian, hessian
from .decision import DecisionMap, decision_map
from .doctor import Diagnosis, diagnose
from .landscape import Landscapes, loss_landscape
from .layer_curvature import LayerCurvature, layer_eigenvalues, layer_traces
from .mistakes import Misread, misread
from .plane import LossPlane, loss_plane
from .schedules import Curve, schedule_curves
from .segmentation import Segments, segments
from .weights import WeightHistograms, weight_histograms

__all__ = [
    "Curve",
    "DecisionMap",
    "Diagnosis",
    "Hessian",
    "Landscapes",
    "LayerCurvature",
    "LossPlane",
    "Misread",
    "Segments",
    "WeightHistograms",
    "decision_map",
    "diagnose",
    "hessian",
    "layer_eigenvalues",
    "layer_traces",
    "loss_landscape",
    "loss_plane",
    "misread",
    "schedule_curves",
    "segments",
    "weight_histograms",
]


def __dir__() -> list[str]:
    return __all__
