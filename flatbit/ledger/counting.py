"""Countable rows: parameters, multiply-adds, bit-operations, optimal steps and SQNR, computed when asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import norm

from .. import models
from ..engine.record import Totals
from ..quant.convert import apply_specs_, resolved_specs
from ..quant.cost import cost
from ..quant.grid import CodeRange, midrise, unsigned
from ..quant.optimal_step import midrise_step, unsigned_step
from ..quant.table import quantizers_of
from .experiments import experiment
from .published import Published

SHAPES = {
    "spirals": (2, (2,)),
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "imagenet": (1000, (3, 224, 224)),
    "image_folder": (1000, (3, 224, 224)),
    "voc2012": (21, (3, 513, 513)),
}
"""Classes and the shape of an image, for data sets that need not be there to count."""
WIDE = 12.0
"""Standard deviations of a Gaussian that are integrated over: beyond is less than float64 tells from 0."""


@lru_cache
def counted(name: str, stage: str) -> Totals:
    """The cost of one image in the net that a stage of an experiment leaves; its weights need no memory.

    Args:
        name: of the experiment.
        stage: its name; "" for the last.
    """
    recipe = experiment(name).made()
    chosen = recipe.stage(stage) if stage else recipe.stages[-1]
    classes, shape = SHAPES[recipe.data]
    follows = {"num_classes": classes, "in_channels": shape[0]}
    accepted = models.accepts(recipe.model)
    follows = {key: value for key, value in follows.items() if key in accepted}
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # of weights that are initialized into none
        model = models.build(recipe.model, **follows | dict(recipe.model_arguments))
        if chosen.policy is not None:
            specs, _ = resolved_specs(model, chosen.policy, strict=chosen.strict)
            apply_specs_(model, specs)
            for _, quantizer in quantizers_of(model):  # on the meta device their bits could not be read
                bits = specs[quantizer.site.layer].tensors[quantizer.site.name].bits
                quantizer.bits = torch.tensor(bits, device="cpu")
        return Totals.of(cost(model, shape))


def count(row: Published, name: str, stage: str) -> float:
    """The value of a row that is counted in a net. Raises KeyError for another metric."""
    return COUNTED[row.metric](counted(name, stage), counted(name, recipe_float(name)))


def recipe_float(name: str) -> str:
    """The stage of an experiment that is float: the first."""
    return experiment(name).made().stages[0].name


COUNTED: dict[str, Callable[[Totals, Totals], float]] = {
    "params": lambda net, _: net.params,
    "params_M": lambda net, _: net.params / 1e6,
    "ops_G": lambda net, _: net.macs / 1e9,
    "BOPs_M": lambda net, _: net.bitops / 1e6,
    "BOPs_G": lambda net, _: net.bitops / 1e9,
    "BOP_ratio": lambda net, float_net: float_net.bitops / net.bitops,
}
"""From the cost of a net and of the float one."""


def sqnr_db(step: float, codes: CodeRange, rectified: bool = False) -> float:
    """Signal to quantization noise of a Gaussian of unit variance, in dB: ``10 log10 Var(x) / E (x - Q(x))^2``.

    UNIQ's Table 1 has activations so: of the rectified Gaussian, zeros and all, by its variance.

    Args:
        step, codes: of the grid.
        rectified: of ``max(x, 0)``.
    """
    x = np.linspace(-WIDE, WIDE, 2_000_001)
    density = norm.pdf(x) * (x[1] - x[0])
    r = np.maximum(x, 0.0) if rectified else x
    offset, low, high = (float(part) for part in codes)
    quantized = step * (np.clip(np.round(r / step - offset), low, high) + offset)
    mean = np.sum(r * density)
    return float(10 * np.log10(np.sum((r - mean) ** 2 * density) / np.sum((r - quantized) ** 2 * density)))


ANALYTIC: dict[str, Callable[[int], float]] = {
    "unit_step_weight": midrise_step,
    "unit_step_act": unsigned_step,
    "SQNR_weight_dB": lambda bits: sqnr_db(midrise_step(bits), midrise(bits)),
    "SQNR_act_dB": lambda bits: sqnr_db(unsigned_step(bits), unsigned(bits), rectified=True),
}
"""UNIQ's Table 1, by bits."""


def analytic(row: Published) -> float:
    """The value of a row that follows from a formula. Raises KeyError for another metric."""
    bits = row.a_bits if row.metric.endswith(("act", "act_dB")) else row.w_bits
    return ANALYTIC[row.metric](int(bits))
