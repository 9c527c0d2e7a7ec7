"""Shards of small images: a ``.npz`` with lossless WebP strips, images one below another, and with labels."""

from __future__ import annotations

import io
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

STRIPS = "."
"""The layout's folder, for ``find_folder``: shards lie in the folder that the user names."""
DAMAGED = "it is cut off or damaged; get it again"
Shape = tuple[int, int, int]


def read_strips(path: Path, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, H, W, C) and labels int64 (n,) of a shard.

    It holds three arrays: ``webp``, the bytes of all strips; ``offsets``, where each begins, and where the last
    ends; ``labels``, uint8, one for each image. A strip is an image of width W that holds one or more of height H,
    one below another; grey ones have three equal channels.

    Args:
        path: of the shard.
        shape: (H, W, C) of one image; C is 1 or 3.

    Raises:
        ValueError: a file that cannot be read, or holds something else than this; by path.
    """
    content, offsets, labels = _arrays(path)
    bounds = [int(offset) for offset in offsets]
    strips = [
        _strip(content[begin:end], shape, f"{path}, strip {number}")
        for number, (begin, end) in enumerate(pairwise(bounds))
    ]
    images = np.concatenate(strips)
    if len(images) != len(labels):
        raise ValueError(f"{path} holds {len(images)} images and {len(labels)} labels, expected one for each")
    return images, labels.astype(np.int64)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays of a shard, checked but for what is in the strips."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
            content, offsets, labels = (shard[name] for name in ("webp", "offsets", "labels"))
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}: expected a shard with webp, offsets and labels") from error
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        MemoryError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} cannot be read as a .npz of plain arrays ({error}): {DAMAGED}") from error
    for name, values in (("webp", content), ("labels", labels)):
        if values.dtype != np.uint8 or values.ndim != 1:
            raise ValueError(f"{path}: {name} is {values.dtype} {values.shape}, expected uint8 (n,)")
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError(f"{path}: offsets is {offsets.dtype} {offsets.shape}, expected two whole numbers or more")
    if offsets[0] != 0 or offsets[-1] != len(content) or not (offsets[:-1] < offsets[1:]).all():
        raise ValueError(
            f"{path}: offsets go from {offsets[0]} to {offsets[-1]}, expected growing ones from 0 to {len(content)} "
            f"(bytes of webp): {DAMAGED}"
        )
    return content, offsets, labels


def _strip(content: np.ndarray, shape: Shape, where: str) -> np.ndarray:
    """The images of one strip, uint8 (n, H, W, C)."""
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(content.tobytes()), formats=("WEBP",)) as image:
            if image.mode != "RGB" or image.width != width or image.height % height:
                raise ValueError(
                    f"{where} has {image.width}x{image.height} pixels {image.mode}, expected {width}x{height} RGB for "
                    "each of its images"
                )
            pixels = np.array(image)
    except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is no WebP image ({error}): {DAMAGED}") from error
    grey = pixels[:, :, :1]
    if channels == 1 and not (pixels == grey).all():
        raise ValueError(f"{where} has colours, expected grey images: three equal channels")
    return (grey if channels == 1 else pixels).reshape(-1, height, width, channels)
