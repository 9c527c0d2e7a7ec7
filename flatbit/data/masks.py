"""Images with masks: a pair of files as tensors, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .batches import VOID
from .decode import read_mask, read_rgb


def read_pair(image_path: Path, mask_path: Path, classes: int, void: int = VOID) -> tuple[Tensor, Tensor]:
    """An image uint8 (3, H, W) and its mask uint8 (H, W), in which ``void`` has become 255.

    Raises:
        ValueError: one of the two cannot be read (by path), they differ in size, or a label is out of range.
    """
    try:
        image = read_rgb(image_path)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{image_path} cannot be read: {error}") from error
    try:
        mask = read_mask(mask_path)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{mask_path} cannot be read: {error}") from error
    if image.shape[1:] != mask.shape:
        raise ValueError(f"{mask_path} is {tuple(mask.shape)}, its image {tuple(image.shape[1:])}")
    mask = mask.masked_fill(mask == void, VOID)
    known = mask[mask != VOID]
    if known.numel() and int(known.max()) >= classes:
        raise ValueError(
            f"{mask_path} holds the label {int(known.max())}, expected 0..{classes - 1}, or {void} for void"
        )
    return image, mask


def fill_of(mean: Sequence[float]) -> tuple[float, ...]:
    """The mean colour in bytes: what lies around an image."""
    return tuple(float(round(255 * value)) for value in mean)
