"""Segments: what several networks make of the same images, pixel by pixel, next to the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..modes import modes_kept


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
    """Class maps of the first images of a test set.

    Attributes:
        truth: the labels, (n, H, W).
        answers: what each network says, by name, (n, H, W).
    """

    truth: np.ndarray
    answers: Mapping[str, np.ndarray]


@torch.no_grad()
def segments(
    networks: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Tensor]], *, num_images: int = 4
) -> Segments:
    """Show the first images to networks, in eval mode; their training modes are restored.

    Args:
        networks: logits (N, classes, H, W), by the name that pictures carry.
        batches: of the test set, labels (N, H, W).
        num_images: how many.

    Raises:
        ValueError: no batches, or labels that are not per pixel.
    """
    x, y = next(iter(batches), (None, None))
    if x is None or y is None:
        raise ValueError("segments got no batches: the iterable is empty, or was used up before")
    if y.ndim != 3:
        raise ValueError(f"labels have shape {tuple(y.shape)}: expected one per pixel, (N, H, W)")
    with modes_kept(*networks.values()):
        answers = {name: net.eval()(x[:num_images]).argmax(1).cpu().numpy() for name, net in networks.items()}
    return Segments(truth=y[:num_images].cpu().numpy(), answers=answers)
