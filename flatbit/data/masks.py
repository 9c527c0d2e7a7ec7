"""Images with masks: a pair of files as tensors, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from .arguments import per_channel
from .batches import VOID
from .decode import read_mask, read_rgb


def read_pair(image_path: Path, mask_path: Path, classes: int, void: int = VOID) -> tuple[Tensor, Tensor]:
    """An image uint8 (3, H, W) and its mask uint8 (H, W), in which ``void`` has become 255.

    Raises:
        ValueError: one of the two cannot be read (by path), they differ in size, or a label is out of range.
    """
    image, mask = _read(read_rgb, image_path), _read(read_mask, mask_path)
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
    return tuple(float(round(255 * value)) for value in per_channel("mean", mean))


def _read(read: Callable[[Path], Tensor], path: Path) -> Tensor:
    try:
        return read(path)
    except Exception as error:  # whatever decoders raise
        raise ValueError(f"{path} cannot be read: {error}") from error
