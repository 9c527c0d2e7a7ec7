"""Joint augmentation of images and their masks: random scale, crop and flip, one window per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_sides
from .augment import Augment
from .batches import VOID, Task


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

    def __call__(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented copies, of the window's size.

        Args:
            images: (N, C, H, W), uint8, or float (of any range; float32 comes back).
            masks: (N, H, W), uint8 or a wider type of whole numbers.
            generator: on the images' device.
        """
        height, width = images.shape[2:]
        rows, columns = self._places(len(images), height, width, generator)
        inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        grid = torch.stack(torch.broadcast_tensors(_unit(columns, width)[:, None, :], _unit(rows, height)[:, :, None]))
        read = F.grid_sample(
            images.float(), grid.movedim(0, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        fill = torch.tensor(self.fill, device=images.device, dtype=torch.float32).reshape(1, -1, 1, 1)
        pixels = torch.where(inside[:, None], read, fill)
        pixels = pixels if images.is_floating_point() else pixels.round_().to(images.dtype)
        row, column = _nearest(rows, height), _nearest(columns, width)
        sample = torch.arange(len(images), device=images.device)
        found = masks[sample[:, None, None], row[:, :, None], column[:, None, :]]
        return pixels, found.masked_fill(~inside, VOID)

    def _places(self, n: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the windows' rows (N, h) and columns (N, w) lie in their images, in pixels."""
        h, w = self.size or (height, width)
        draws = torch.rand(4, n, 1, generator=generator, device=generator.device, dtype=torch.float32)
        least, largest = self.scale
        scale = least + (largest - least) * draws[0]
        rows = torch.arange(h, device=draws.device) + draws[1] * (scale * height - h)
        columns = torch.arange(w, device=draws.device) + draws[2] * (scale * width - w)
        if self.flip:
            columns = torch.where(draws[3] < 0.5, columns.flip(1), columns)
        return (rows + 0.5) / scale - 0.5, (columns + 0.5) / scale - 0.5


def augmented(
    augment: Augment | JointAugment | None, images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch after augmentation: of the images alone, or of both where the labels are masks."""
    if isinstance(augment, JointAugment):
        return augment(images, labels, generator)
    return (augment(images, generator) if augment else images), labels


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
