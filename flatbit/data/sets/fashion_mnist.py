"""Fashion-MNIST in its four IDX files, gzipped or not, or in shards of strips."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .. import DATASETS
from ..arguments import per_channel
from ..augment import Augment
from ..files import download as download_with_torchvision
from ..files import find_folder, one_of
from ..memory import Images, MemoryData
from ..strips import STRIPS, read_strips

SIDE = 28
SPLITS = ("train", "t10k")
SHARDS = ("fashion_mnist_train.npz", "fashion_mnist_test.npz")
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
HOW = (
    "fetch train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz from https://github.com/zalandoresearch/fashion-mnist into that folder, or pass "
    "download=True (--data-arg download=true) where torchvision is installed"
)


def load_fashion_mnist(
    root: str | Path, *, mean: Sequence[float] = (0.2860,), std: Sequence[float] = (0.3530,), download: bool = False
) -> MemoryData:
    """Fashion-MNIST: 60,000 training and 10,000 test images, 1x28x28, ten classes; training pads by 2, crops, flips.

    Args:
        root: the folder with the four files, or one that holds them in FashionMNIST/raw; or the one with shards of
            WebP strips (fashion_mnist_train.npz and fashion_mnist_test.npz, see ``data.strips``).
        mean, std: of pixels in [0, 1].
        download: have torchvision download the set into root.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747.

    Raises:
        ValueError: files that are missing, cut off, damaged, or hold labels out of range; by path.
    """
    if download:
        download_with_torchvision("FashionMNIST", root, HOW)
    files = {split: tuple(f"{split}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")) for split in SPLITS}
    either = {split: tuple(f"{file}|{file}.gz" for file in pair) for split, pair in files.items()}
    wanted = [file for pair in either.values() for file in pair]
    layouts = {"FashionMNIST/raw": wanted, "raw": wanted, STRIPS: list(SHARDS)}
    layout, folder = find_folder("fashion_mnist", root, layouts, HOW)
    if layout == STRIPS:
        train, test = (_shard(folder / shard) for shard in SHARDS)
    else:
        train, test = (_split(*(one_of(folder, file) for file in either[split])) for split in SPLITS)
    return MemoryData(
        name="fashion_mnist",
        num_classes=10,
        train=train,
        test=test,
        mean=per_channel("mean", mean),
        std=per_channel("std", std),
        augment=Augment(pad=2, flip=True),
        class_names=NAMES,
    )


def _split(images_path: Path, labels_path: Path) -> Images:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{images_path} holds images {images.shape[1:]}, expected ({SIDE}, {SIDE})")
    if len(images) != len(labels):
        raise ValueError(f"{images_path} holds {len(images)} images, {labels_path} {len(labels)} labels")
    return _checked(images, labels.astype(np.int64), labels_path)


def _shard(path: Path) -> Images:
    images, labels = read_strips(path, (SIDE, SIDE, 1))
    return _checked(images[..., 0], labels, path)


def _checked(images: np.ndarray, labels: np.ndarray, path: Path) -> Images:
    """A split of images (n, 28, 28) and the labels (n,) that a file holds."""
    if not len(labels) or labels.max() >= len(NAMES):
        raise ValueError(f"{path} holds {len(labels)} labels up to {labels.max(initial=0)}, expected 0..9")
    return Images(images=torch.from_numpy(images)[:, None], labels=torch.from_numpy(labels))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes as uint8 of so many dimensions, gzipped where its name ends in .gz.

    Raises:
        ValueError: the file is cut off, damaged or another kind; by path.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): it is cut off or damaged; get it again") from error
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise ValueError(
            f"{path} is no IDX file of bytes in {dimensions} dimensions: its first bytes are {content[:4]!r}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(
            f"{path} holds {len(content) - header} bytes, its header says {shape}: it is cut off or "
            "damaged; get it again"
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)


DATASETS.add("fashion_mnist", load_fashion_mnist)
