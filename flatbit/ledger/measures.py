"""Measures: what tables print of a net besides its test score, taken once when its run is finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..analysis.curvature import hessian
from ..data.batches import Data
from ..engine.fit import TEST_BATCH
from ..files import load
from ..metrics.evaluation import evaluate
from .experiments import Experiment, Point
from .published import published

SAMPLES = 500
"""Training images, not augmented, whose mean loss SAQ's Table 3 takes the curvature of."""


def train_top1(model: nn.Module, data: Data, device: str) -> float:
    """Percent of the training images, not augmented, that a net gets right."""
    batches = data.train_batches(TEST_BATCH[data.task], seed=0, device=device, augment=False)
    return evaluate(model, batches, description="training set").top1


def lambda_max(model: nn.Module, data: Data, device: str) -> float:
    """The Hessian's top eigenvalue at the quantized weights, over 500 training images (SAQ, Table 3)."""
    batches = data.train_batches(SAMPLES, seed=0, device=device, augment=False)
    return hessian(model, batches, num_batches=1).eigenvalue


MEASURES: dict[str, Callable[[nn.Module, Data, str], float]] = {"train_top1": train_top1, "lambda_max": lambda_max}
"""By the metric of the rows that they fill."""


def wanted(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """The measures that an experiment's rows ask for, by point."""
    metrics = {row.id: row.metric for row in published()}
    asked = {point: {metrics[row] for row in rows} & MEASURES.keys() for point, rows in experiment.fills.items()}
    return {point: tuple(sorted(names)) for point, names in asked.items() if names}


def measured(experiment: Experiment, folder: Path, data: Data, device: str) -> dict[str, dict[str, float]]:
    """Take an experiment's measures on the models that its run left.

    Args:
        experiment: whose.
        folder: of the finished run.
        data: its data set.
        device: where to compute.
    """
    found = {}
    for point, names in wanted(experiment).items():
        model = load(_file(folder, Point.parse(point))).to(device)
        found[point] = {name: MEASURES[name](model, data, device) for name in names}
    return found


def _file(folder: Path, point: Point) -> Path:
    return folder / "stages" / f"{point}.safetensors" if point.stage else folder / "model.safetensors"
