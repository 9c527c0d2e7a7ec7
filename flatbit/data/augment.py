"""Augmentation of whole batches on their device: pad and crop, flip, cutout; what is random is drawn on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What is done to a training image.

    ``draw`` says what chance decides for each image, on the CPU, so that every device sees the same images;
    ``apply`` does it, and never makes the host wait for the device.

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

    def draw(self, n: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What is done to each of n inputs of a shape: int64 (n, 5), on the CPU, a row for each.

        The first row and column of the crop in the padded image, whether it is mirrored (0 or 1), and row and
        column of the cutout's centre; 0 of what this augmentation does not do.
        """
        window = 2 * self.pad + 1
        centre = shape[1:] if self.cutout else (1, 1)
        bounds = (window, window, 1 + self.flip, *centre)
        return torch.stack([torch.randint(bound, (n,), generator=generator) for bound in bounds], dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augmented copies of images (N, C, H, W), any dtype; the draws (N, 5) are on the images' device."""
        top, left, mirrored, row, column = draws.unbind(1)
        if self.pad:
            images = crop(images, self.pad, top, left)
        if self.flip:
            images = flip(images, mirrored)
        if self.cutout:
            images = cutout(images, self.cutout, row, column)
        return images


def crop(images: Tensor, pad: int, top: Tensor, left: Tensor) -> Tensor:
    """Pad by ``pad`` zeros and cut the window of the original size that begins at (top, left), (N,) each."""
    n, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad)).flatten()
    # A row of a window is a run of width * channels neighbours in memory. Seen so, the windows' rows are
    # an index_select, which copies whole runs: 20 times faster than indices per pixel.
    runs = padded.as_strided((len(padded) // channels - width + 1, width * channels), (channels, 1))
    image = torch.arange(n, device=images.device) * (height + 2 * pad)
    rows = (image + top)[:, None] + torch.arange(height, device=images.device)
    first = rows * (width + 2 * pad) + left[:, None]
    return runs.index_select(0, first.flatten()).reshape(n, height, width, channels).permute(0, 3, 1, 2)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror left and right the images whose entry in ``mirrored`` (N,) is 1, and not those where it is 0."""
    rows = images.permute(0, 2, 3, 1)
    both = torch.cat([rows, rows.flip(2)])  # whole images are then selected, without asking the device how many
    index = torch.arange(len(images), device=images.device) + len(images) * mirrored
    return both.index_select(0, index).permute(0, 3, 1, 2)


def cutout(images: Tensor, side: int, row: Tensor, column: Tensor) -> Tensor:
    """Set the square of ``side`` pixels centred at (row, column), (N,) each, to zero; it may hang over the edge."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) - (row - side // 2)[:, None]
    columns = torch.arange(width, device=images.device) - (column - side // 2)[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return images.masked_fill(inside[:, None], 0)
