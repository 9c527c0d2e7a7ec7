"""Segments: what several networks make of the same images, pixel by pixel, next to the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data.batches import VOID, Data
from ..device import device_of
from ..modes import modes_kept
from ..nonempty import nonempty
from ..outputs import logits_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
    """Class maps of the first images of a test set.

    Attributes:
        pictures: the images, uint8 (n, C, H, W).
        truth: the labels, (n, H, W), with ``VOID``.
        answers: what each network says, by name, (n, H, W).
        class_names: one per label; their numbers where the data name none.
    """

    pictures: np.ndarray
    truth: np.ndarray
    answers: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]

    @property
    def pixels_right(self) -> dict[str, float]:
        """Percent of these images' pixels, void aside, that each network gets right."""
        scored = self.truth != VOID
        return {name: 100 * float((said == self.truth)[scored].mean()) for name, said in self.answers.items()}


@torch.no_grad()
def segments(networks: Mapping[str, nn.Module], data: Data, *, num_images: int = 4) -> Segments:
    """Show the first test images to networks, in eval mode; their training modes are restored.

    Args:
        networks: logits (N, classes, H, W), by the name that pictures carry.
        data: images with a label per pixel.
        num_images: how many, or all where there are fewer.

    Raises:
        ValueError: data of another task, or without test batches.
    """
    if data.task != "segmentation":
        raise ValueError(
            f"segments: data set {data.name!r} is for {data.task}: expected segmentation, a label per pixel "
            "(N, H, W): name such a data set"
        )
    x, y = next(nonempty(data.test_batches(num_images), "segments"))
    with modes_kept(*networks.values()):
        answers = {
            name: logits_of(network.eval()(x.to(device_of(network))), name).argmax(1).cpu().numpy()
            for name, network in networks.items()
        }
    return Segments(
        pictures=data.pictures(range(len(y))),
        truth=y.cpu().numpy(),
        answers=answers,
        class_names=data.class_names or tuple(str(label) for label in range(data.num_classes)),
    )
