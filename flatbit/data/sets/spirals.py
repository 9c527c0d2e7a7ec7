"""Spirals: HOL's two interleaved spirals in the plane, noisy to train on, the noise-free regions to test on."""

from __future__ import annotations

import numpy as np
import torch

from .. import DATASETS
from ..memory import Images, MemoryData

RADIUS = 0.1
ARCS = 5
ANGLES = 100
COPIES = 9
NOISE = RADIUS / 3
GRID = 401
EXTENT = 1.2


def make_spirals(seed: int = 0) -> MemoryData:
    """HOL's synthetic data: 20,000 noisy training points of two classes, and the valid points of a 401x401 grid.

    The training set is the 2,000 points of ``core`` and nine copies of each with normal noise of
    standard deviation r/3 [decision: the paper's covariance ``rI / 3`` would hide the spirals]. The
    test set is the part of the grid over [-1.2, 1.2]^2 that ``region`` calls valid, with its labels.
    ``images`` are the coordinates, float32 (N, 2); batches give them multiplied by 2.

    Args:
        seed: of the noise.

    Source: HOL, section 3, equations 5 and 6.
    """
    points, labels = core()
    noise = np.random.default_rng(seed).normal(scale=NOISE, size=(COPIES, *points.shape))
    train = np.concatenate([points, *(points + noise)])
    steps = (np.arange(GRID) - GRID // 2) * (2 * EXTENT / (GRID - 1))
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    regions, valid = region(grid)
    return MemoryData(
        name="spirals",
        num_classes=2,
        train=_points(train, np.tile(labels, 1 + COPIES)),
        test=_points(grid[valid], regions[valid]),
        mean=(0.0, 0.0),
        std=(0.5, 0.5),
        class_names=("0", "1"),
    )


def core() -> tuple[np.ndarray, np.ndarray]:
    """The 2,000 points on the arcs, float64 (2000, 2), and their classes, int64 (2000,) (equations 5 and 6).

    Arc i = 0..4 of class 0 has radius (2i+1) r around (0, 0) above and (2i+2) r around (r, 0) below;
    class 1 has the two radii swapped. Each arc has 100 angles, its ends included.
    """
    upper, lower = np.linspace(0, np.pi, ANGLES), np.linspace(np.pi, 2 * np.pi, ANGLES)
    points, labels = [], []
    for label in (0, 1):
        for i in range(ARCS):
            odd, even = (2 * i + 1) * RADIUS, (2 * i + 2) * RADIUS
            above, below = (odd, even) if label == 0 else (even, odd)
            points.append(above * np.stack([np.cos(upper), np.sin(upper)], axis=1))
            points.append(below * np.stack([np.cos(lower), np.sin(lower)], axis=1) + [RADIUS, 0.0])
            labels.append(np.full(2 * ANGLES, label))
    return np.concatenate(points), np.concatenate(labels).astype(np.int64)


def region(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class of the arc nearest to points (n, 2), int64 (n,), and whether there is one, bool (n,).

    With rho the distance to (0, 0) where y > 0 and to (r, 0) elsewhere, and k = round(rho / r), the
    class is 0 where k is odd above or even below; points with k in 1..10 are valid.
    """
    x, y = points[:, 0], points[:, 1]
    above = y > 0
    k = np.rint(np.hypot(np.where(above, x, x - RADIUS), y) / RADIUS).astype(np.int64)
    labels = np.where((k % 2 == 1) == above, 0, 1)
    return labels, (k >= 1) & (k <= 2 * ARCS)


def _points(points: np.ndarray, labels: np.ndarray) -> Images:
    return Images(images=torch.from_numpy(points.astype(np.float32)), labels=torch.from_numpy(labels))


DATASETS.add("spirals", make_spirals)
