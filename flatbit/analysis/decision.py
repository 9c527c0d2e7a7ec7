"""Decision maps: what a classifier of the plane says at every point of a grid (HOL, Figs 1-3, 9, 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data.batches import Data
from ..data.memory import MemoryData
from ..data.normalize import Normalize
from ..data.sets.spirals import region
from ..device import device_of
from ..modes import modes_kept
from ..outputs import logits_of

CHUNK = 20_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionMap:
    """The classes that a net gives a grid of points, and the truth.

    Attributes:
        extent: (left, right, bottom, top) in coordinates of the data.
        answers: (points, points), rows upwards, of the class.
        truth: the same for the region that the point lies in; -1 where it lies in none.
    """

    extent: tuple[float, float, float, float]
    answers: np.ndarray
    truth: np.ndarray

    @property
    def accuracy(self) -> float:
        """Percent of the points that lie in a region and are classified as it."""
        valid = self.truth >= 0
        return 100 * float((self.answers == self.truth)[valid].mean())


@torch.no_grad()
def decision_map(
    model: nn.Module,
    data: Data,
    *,
    extent: tuple[float, float, float, float] = (-1.2, 1.2, -1.2, 1.2),
    points: int = 401,
) -> DecisionMap:
    """Ask a net for its class at every point of a grid over a part of the plane.

    Args:
        model: logits (N, 2) of normalized coordinates (N, 2).
        data: ``spirals``: how coordinates are normalized; whose regions are the truth.
        extent: left, right, bottom, top; HOL shows the quarter (0, 1.1, -1, 0).
        points: along each side.

    Raises:
        ValueError: data that are not the spirals, or fewer than 2 points.
    """
    if not isinstance(data, MemoryData) or data.name != "spirals":
        raise ValueError(
            f"decision_map: data set {data.name!r} has inputs of shape {data.image_shape}: expected points (2,) of the "
            "data set spirals, whose regions are known: name it"
        )
    if points < 2:
        raise ValueError(f"points={points}: expected 2 or more along each side")
    left, right, bottom, top = extent
    across, upwards = np.meshgrid(np.linspace(left, right, points), np.linspace(bottom, top, points))
    plane = np.stack([across, upwards], axis=-1).reshape(-1, 2)
    labels, valid = region(plane)
    inputs = Normalize(data.mean, data.std)(torch.from_numpy(plane.astype(np.float32)).to(device_of(model)))
    with modes_kept(model):
        model.eval()
        answers = torch.cat([logits_of(model(x), type(model).__name__).argmax(1) for x in inputs.split(CHUNK)])
    shape = (points, points)
    return DecisionMap(
        extent=extent,
        answers=answers.cpu().numpy().reshape(shape),
        truth=np.where(valid, labels, -1).reshape(shape),
    )
