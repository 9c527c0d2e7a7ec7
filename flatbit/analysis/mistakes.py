"""Misread images: what networks say of the images that at least one of them gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Data
from ..device import device_of
from ..modes import modes_kept
from ..nonempty import nonempty
from ..outputs import logits_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Misread:
    """Test images that at least one network gets wrong.

    Attributes:
        index: positions in the test set, (n,).
        labels: the truth, (n,).
        answers: what each network says, by name, (n,).
        pictures: the first of these images, uint8 (up to n, C, H, W).
        class_names: one per label, or none.
        num_samples: how many images were shown.
    """

    index: np.ndarray
    labels: np.ndarray
    answers: Mapping[str, np.ndarray]
    pictures: np.ndarray
    class_names: tuple[str, ...]
    num_samples: int

    @property
    def num_wrong(self) -> dict[str, int]:
        """How many images each network gets wrong."""
        return {name: int((said != self.labels).sum()) for name, said in self.answers.items()}


@torch.no_grad()
def misread(networks: Mapping[str, nn.Module], data: Data, *, num_pictures: int = 18) -> Misread:
    """Show the test images to networks, in eval mode; keep what any gets wrong. Training modes are restored.

    Args:
        networks: logits (N, classes), by the name that pictures carry.
        data: images with one label each.
        num_pictures: keep so many images at most.

    Raises:
        ValueError: data that are not such images, or have no test batches.
    """
    if data.task != "classification" or len(data.image_shape) != 3:
        raise ValueError(
            f"misread: data set {data.name!r} is for {data.task}, of inputs {data.image_shape}: expected "
            "classification of images (C, H, W): name such a data set"
        )
    said: dict[str, list[Tensor]] = {name: [] for name in networks}
    labels: list[Tensor] = []
    with modes_kept(*networks.values()):
        for network in networks.values():
            network.eval()
        for x, y in nonempty(data.test_batches(), "misread"):
            labels.append(y.cpu())
            for name, network in networks.items():
                said[name].append(logits_of(network(x.to(device_of(network))), name).argmax(1).cpu())
    truth = torch.cat(labels).numpy()
    answers = {name: torch.cat(parts).numpy() for name, parts in said.items()}
    wrong = np.flatnonzero(np.any([each != truth for each in answers.values()], axis=0))
    return Misread(
        index=wrong,
        labels=truth[wrong],
        answers={name: each[wrong] for name, each in answers.items()},
        pictures=data.pictures(wrong[:num_pictures]),
        class_names=data.class_names,
        num_samples=len(truth),
    )
