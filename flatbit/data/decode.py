"""Image files to pixels: any mode to RGB, crop and resize in one step, decoded no larger than needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Box = tuple[float, float, float, float]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


def read_rgb(path: str | Path) -> Tensor:
    """A whole image file as uint8 (3, H, W), in any mode that ``to_rgb`` takes."""
    with Image.open(path) as image:
        return pixels(to_rgb(image))


def read_mask(path: str | Path) -> Tensor:
    """A file of class indices, grey or with a palette, as uint8 (H, W). Raises ValueError where it has colours."""
    with Image.open(path) as image:
        if image.mode not in ("L", "P", "1", "I;16", "I"):
            raise ValueError(f"the mask has mode {image.mode}, expected class indices (mode L or P)")
        values = np.array(image)
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"the mask has a value of {values.max()}, expected at most 255")
    return torch.from_numpy(values.astype(np.uint8))


def read_crop(image: Image.Image, box: Box, size: tuple[int, int]) -> Tensor:
    """A box of an opened, not yet loaded image, resized bilinearly with antialiasing; uint8 (3, height, width).

    A JPEG is decoded at 1/2, 1/4 or 1/8 where the box still has at least ``size`` pixels then.

    Args:
        image: as ``Image.open`` gives it.
        box: left, top, right, bottom in the image's pixels.
        size: (height, width) of the result.
    """
    full_width, full_height = image.size
    height, width = size
    spare = int(min((box[2] - box[0]) / width, (box[3] - box[1]) / height))
    if spare >= 2:
        image.draft(None, (full_width // min(spare, 8), full_height // min(spare, 8)))
    x, y = image.width / full_width, image.height / full_height
    scaled = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
    return pixels(to_rgb(image).resize((width, height), Image.Resampling.BILINEAR, box=scaled))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in mode RGB, loaded: grey is repeated, CMYK converted, alpha laid over white, 16 bits cut to 8.

    EXIF rotation is not applied. Raises ValueError in modes that do not say how bright white is.
    """
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("mode F has pixels of any range: convert the file to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8; ``convert`` alone would cut everything above 255 to white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode {image.mode} has values {values.min()}..{values.max()}, expected 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8), "L" if values.ndim == 2 else None)


def pixels(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W), channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def random_box(
    width: int, height: int, stream: torch.Generator, *, scale: Sequence[float] = (0.08, 1.0), tries: int = 10
) -> Box:
    """A random box of 8 to 100 % of the area and of aspect ratio 3/4 to 4/3, as Inception training takes it.

    The ratio is uniform in its logarithm. After ``tries`` boxes that do not fit it is the largest one
    in the middle whose ratio is within the bounds [torchvision's RandomResizedCrop].
    """
    draws = torch.rand(tries, 4, generator=stream, dtype=torch.float64).tolist()
    for area, ratio, left, top in draws:
        pixels_ = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * ratio)
        w, h = round(math.sqrt(pixels_ * aspect)), round(math.sqrt(pixels_ / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    aspect = min(max(width / height, 3 / 4), 4 / 3)
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def central_box(width: int, height: int, share: float) -> Box:
    """The square in the middle whose side is a share of the shorter side."""
    side = min(width, height) * share
    x, y = (width - side) / 2, (height - side) / 2
    return x, y, x + side, y + side
