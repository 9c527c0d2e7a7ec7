"""Augmentation of whole batches on their device: pad and crop, flip, cutout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What is done to a training image.

    Attributes:
        pad: zero pixels added on each side before a random crop of the original size.
        flip: mirror left and right, half of the images.
        cutout: side of one square set to zero per image; 0 for none.

    Raises:
        ValueError: a pad or cutout that is no whole number, or negative.
    """

    pad: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        check_whole("pad", self.pad, 0)
        check_whole("cutout", self.cutout, 0)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of images (N, C, H, W), any dtype; the generator is on the images' device."""
        if self.pad:
            images = crop(images, self.pad, generator)
        if self.flip:
            images = flip(images, generator)
        if self.cutout:
            images = cutout(images, self.cutout, generator)
        return images


def crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Pad by ``pad`` zeros and cut a window of the original size at a random place, one per image."""
    n, channels, height, width = images.shape
    corners = torch.randint(2 * pad + 1, (2, n), generator=generator, device=images.device)
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad)).flatten()
    # A row of a window is a run of width * channels neighbours in memory. Seen so, the windows' rows are
    # an index_select, which copies whole runs: 20 times faster than indices per pixel.
    runs = padded.as_strided((len(padded) // channels - width + 1, width * channels), (channels, 1))
    image = torch.arange(n, device=images.device) * (height + 2 * pad)
    rows = (image + corners[0])[:, None] + torch.arange(height, device=images.device)
    first = rows * (width + 2 * pad) + corners[1, :, None]
    return runs.index_select(0, first.flatten()).reshape(n, height, width, channels).permute(0, 3, 1, 2)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left and right with probability 1/2."""
    chosen = torch.rand(len(images), generator=generator, device=images.device, dtype=torch.float32) < 0.5
    rows = images.permute(0, 2, 3, 1)
    both = torch.cat([rows, rows.flip(2)])  # whole images are then selected, without asking the device how many
    index = torch.arange(len(images), device=images.device) + len(images) * chosen
    return both.index_select(0, index).permute(0, 3, 1, 2)


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set one square of ``side`` pixels per image to zero, centred anywhere (it may hang over the edge)."""
    n, _, height, width = images.shape
    centres = torch.rand(2, n, generator=generator, device=images.device, dtype=torch.float32)
    top = (centres[0] * height).long() - side // 2
    left = (centres[1] * width).long() - side // 2
    rows = torch.arange(height, device=images.device) - top[:, None]
    columns = torch.arange(width, device=images.device) - left[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return images.masked_fill(inside[:, None], 0)
