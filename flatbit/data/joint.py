"""Joint augmentation of images and their masks: one window per image; what is random is drawn on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_sides
from .augment import Augment
from .batches import VOID, Batch, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JointAugment:
    """What is done to a training image and its mask, the same to both.

    The image is scaled by a factor uniform in ``scale``, and a window of ``size`` is taken at a random
    place; where the scaled image is smaller than the window, it lies at a random place inside. Images
    are read bilinearly, masks at the nearest pixel. Half of the windows are mirrored. Pixels outside
    the image get ``fill`` and ``VOID`` [DeepLabv3, arXiv 1706.05587, section 4.1].

    Attributes:
        scale: least and largest factor.
        size: (height, width) of the window; None for that of the images.
        flip: mirror left and right, half of the windows.
        fill: pixel value per channel outside the image, as stored (0..255).
    """

    scale: tuple[float, float] = (0.5, 2.0)
    size: tuple[int, int] | None = None
    flip: bool = True
    fill: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={self.scale}: expected (least, largest), positive")
        if self.size is not None:
            check_sides("size", self.size)

    def draw(self, n: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What is done to each of n images: float32 (n, 4) in [0, 1), on the CPU, a row for each.

        Where the factor lies in ``scale``, where the window lies between the ends of its room, down and across,
        and whether it is mirrored, below 1/2. They hold for images of any shape.
        """
        return torch.rand(n, 4, generator=generator, dtype=torch.float32)

    def apply(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented copies, of the window's size.

        Every device gives the same masks; images, which are interpolated, the same but for rounding.

        Args:
            images: (N, C, H, W), uint8, or float (of any range; float32 comes back).
            masks: (N, H, W), uint8 or a wider type of whole numbers.
            draws: (N, 4), on the images' device.
        """
        height, width = images.shape[2:]
        rows, columns = self._places(draws, height, width)
        outside = ~(_within(rows, height)[:, :, None] & _within(columns, width)[:, None, :])
        grid = torch.stack(torch.broadcast_tensors(_unit(columns, width)[:, None, :], _unit(rows, height)[:, :, None]))
        pixels = F.grid_sample(
            images.float(), grid.movedim(0, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        channels = pixels.unbind(1)
        for channel, value in zip(channels, self.fill * (len(channels) // len(self.fill)), strict=True):
            channel.masked_fill_(outside, value)  # a number: a tensor of the fill would be copied in each step
        pixels = pixels if images.is_floating_point() else pixels.round_().to(images.dtype)
        row, column = _nearest(rows, height), _nearest(columns, width)
        sample = torch.arange(len(images), device=images.device)
        found = masks[sample[:, None, None], row[:, :, None], column[:, None, :]]
        return pixels, found.masked_fill(outside, VOID)

    def _places(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Where the windows' rows (N, h) and columns (N, w) lie in their images, in pixels."""
        h, w = self.size or (height, width)
        factor, down, across, mirror = draws[:, :, None].unbind(1)
        least, largest = self.scale
        scale = least + (largest - least) * factor
        rows = torch.arange(h, device=draws.device) + down * (scale * height - h)
        columns = torch.arange(w, device=draws.device) + across * (scale * width - w)
        if self.flip:
            columns = torch.where(mirror < 0.5, columns.flip(1), columns)
        return (rows + 0.5) / scale - 0.5, (columns + 0.5) / scale - 0.5


def augmented(augment: Augment | JointAugment, images: Tensor, labels: Tensor, draws: Tensor) -> Batch:
    """A batch after augmentation: of the images alone, or of both where the labels are masks."""
    if isinstance(augment, JointAugment):
        return augment.apply(images, labels, draws)
    return augment.apply(images, draws), labels


def check_augment(augment: Augment | JointAugment | None, task: Task, shape: tuple[int, ...]) -> None:
    """Raise ValueError where an augmentation is not for the task or for inputs of a shape."""
    if augment is None:
        return
    if (task == "segmentation") != isinstance(augment, JointAugment):
        other = "JointAugment, which moves masks with their images" if task == "segmentation" else "Augment"
        raise ValueError(f"{task} does not go with {type(augment).__name__}: expected {other}")
    if len(shape) != 3 and augment != Augment():
        raise ValueError(f"{augment} is for images (C, H, W), inputs have shape {shape}: leave it out")
    if isinstance(augment, JointAugment) and len(augment.fill) not in (1, shape[0]):
        raise ValueError(f"fill={augment.fill}: expected one value, or one for each of {shape[0]} channels")


def _within(places: Tensor, size: int) -> Tensor:
    return (places >= -0.5) & (places < size - 0.5)


def _unit(places: Tensor, size: int) -> Tensor:
    """Pixel places as grid_sample counts them: -1 and 1 are the outer edges of the outer pixels."""
    return (2 * places + 1) / size - 1


def _nearest(places: Tensor, size: int) -> Tensor:
    return (places + 0.5).floor().long().clamp(0, size - 1)
