"""The loss over the plane through three models (SQWA, Figures 1 and 4), of float weights or on the quantized grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from ..data.batches import Data
from ..device import device_of
from ..train.batchnorm import reestimate_batchnorm_
from .partial import digest_of, digest_of_samples, measured_each
from .samples import sample, score
from .span import Span

MARGIN = 0.25  # of the larger side of the models' bounding box, around it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossPlane:
    """Loss and accuracy at every point of a grid on a plane, and at the three models that it goes through.

    Attributes:
        names: of the models, (3,).
        corners: their coordinates, distances between weights, (3, 2): the first at (0, 0), the second at (d, 0).
        x, y: coordinates of the grid, ascending, (points,).
        surface: (points, points) by name, rows upwards: ``train_loss``, ``train_accuracy`` (percent), ``test_loss``,
            ``test_accuracy``.
        at_models: the same at the models, (3,).
        weights: ``quantized``: a point is a latent weight, rounded by the models' quantizers; ``float``: it is a
            weight between the models' quantized weights, and is not rounded.
        refitted: whether the models had different steps that are not learned, fitted anew at every point.
        num_train, num_test: images; the training images also gave each point's batch-norm statistics.
    """

    names: tuple[str, ...]
    corners: np.ndarray
    x: np.ndarray
    y: np.ndarray
    surface: Mapping[str, np.ndarray]
    at_models: Mapping[str, np.ndarray]
    weights: str
    refitted: bool
    num_train: int
    num_test: int


@torch.no_grad()
def loss_plane(
    models: Mapping[str, nn.Module],
    data: Data,
    *,
    weights: Literal["quantized", "float"] = "quantized",
    points: int = 21,
    num_images: int = 2000,
    keep: Path | None = None,
) -> LossPlane:
    """Measure the plane through three models, which all stay as they are.

    With ``u = w2 - w1`` and ``v`` the part of ``w3 - w1`` across ``u``, the point (x, y) is ``w1 + x u/||u|| + y
    v/||v||`` of all parameters: weights, biases, batch norms' scales and shifts. Steps and clips that are learned lie
    between the models' (``Span``) and count in no distance. Batch-norm statistics are estimated at every point, the
    models among them, from the training images that the loss is measured on.

    Args:
        models: three of one architecture, by the name that pictures carry; quantized alike, or float.
        data: the same images for all; not augmented (``sample``).
        weights: ``quantized`` rounds each point's latent weights; ``float`` goes through the quantized weights and
            rounds nothing.
        points: along each side.
        num_images: of either split.
        keep: a folder for what is measured so far (``measured_each``).

    Raises:
        ValueError: not three models of one architecture and convention, with three different weights off one line;
            ``quantized`` without quantized weights; settings out of range.
    """
    if len(models) != 3:
        raise ValueError(f"plane: got {len(models)} models ({', '.join(models)}): expected three, which span it")
    if points < 2:
        raise ValueError(f"points={points}: expected 2 or more along each side")
    span = Span(models, rounded=weights == "quantized")
    corners, x, y = _grid(span, points)
    places = [*np.eye(3), *(_shares(corners, a, b) for b in y for a in x)]
    device = device_of(span.network)
    images = {split: sample(data, split, num_images, device) for split in ("train", "test")}

    def measure(shares: np.ndarray) -> list[float]:
        span.move_(shares.tolist())
        reestimate_batchnorm_(span.network, images["train"])
        return [value for batches in images.values() for value in score(span.network, batches)]

    key = {
        "models": {name: digest_of(model) for name, model in models.items()},
        "images": {split: digest_of_samples(batches) for split, batches in images.items()},
        "weights": weights,
    }
    found = np.array(measured_each(places, measure, "plane", folder=keep, key=key))
    names = [f"{split}_{what}" for split in images for what in ("loss", "accuracy")]
    return LossPlane(
        names=tuple(models),
        corners=corners,
        x=x,
        y=y,
        surface={name: found[3:, i].reshape(points, points) for i, name in enumerate(names)},
        at_models={name: found[:3, i].copy() for i, name in enumerate(names)},
        weights=weights,
        refitted=span.refitted,
        num_train=sum(len(labels) for _, labels in images["train"]),
        num_test=sum(len(labels) for _, labels in images["test"]),
    )


def _grid(span: Span, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The models' coordinates, and those of the grid around them."""
    u, w = span.difference(1), span.difference(2)
    length = u.norm()
    along = (u @ w) / length
    across = (w - along * u / length).norm()
    if not length > 0 or not across > 1e-6 * max(length, w.norm()):
        first, second, third = span.names
        where = (
            f"are the same in {first} and {second}"
            if not length > 0
            else f"of {first}, {second} and {third} lie on a line"
        )
        raise ValueError(f"plane: the weights {where}: expected three models that span a plane")
    corners = np.array([[0, 0], [length.item(), 0], [along.item(), across.item()]])
    low, high = corners.min(0), corners.max(0)
    margin = MARGIN * (high - low).max()
    x, y = (np.linspace(low[axis] - margin, high[axis] + margin, points) for axis in (0, 1))
    return corners, x, y


def _shares(corners: np.ndarray, x: float, y: float) -> np.ndarray:
    """The weights of the three models, which sum to 1, whose mean is the point (x, y)."""
    third = y / corners[2, 1]
    second = (x - third * corners[2, 0]) / corners[1, 0]
    return np.array([1 - second - third, second, third])
