"""CIFAR-10 and CIFAR-100, in the official layouts (python pickles, binary files) or in shards of strips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import DATASETS
from ..arguments import per_channel
from ..augment import Augment
from ..class_names import CIFAR10 as CIFAR10_NAMES
from ..class_names import CIFAR100 as CIFAR100_NAMES
from ..files import decoded, find_folder
from ..files import download as download_with_torchvision
from ..memory import Images, MemoryData
from ..safe_pickle import load_plain_pickle
from ..strips import STRIPS, read_strips

PIXELS = 3 * 32 * 32
SHARDS = (*(f"train_{k}" for k in range(5)), "test")
Pixels = tuple[np.ndarray, np.ndarray]
"""What a file holds: uint8 (n, 3, 32, 32), in any order in memory, and labels int64 (n,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Set:
    """What tells one of the two sets from the other; mean and std are the usual, published ones."""

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    python: str
    binary: str
    train: tuple[str, ...]
    test: str
    names: str
    labels_key: bytes
    names_key: bytes
    binary_names: str
    binary_label_bytes: int
    class_names: tuple[str, ...]

    @property
    def how(self) -> str:
        archive = self.python.removesuffix("-batches-py").removesuffix("-python")
        return (
            f"fetch https://www.cs.toronto.edu/~kriz/{archive}-python.tar.gz (or -binary.tar.gz) and unpack it there "
            f"(tar xf), or pass download=True (--data-arg download=true) where torchvision is installed"
        )


CIFAR10 = _Set(
    name="cifar10",
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    train=tuple(f"data_batch_{k}" for k in range(1, 6)),
    test="test_batch",
    names="batches.meta",
    labels_key=b"labels",
    names_key=b"label_names",
    binary_names="batches.meta.txt",
    binary_label_bytes=1,
    class_names=CIFAR10_NAMES,
)
CIFAR100 = _Set(
    name="cifar100",
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    python="cifar-100-python",
    binary="cifar-100-binary",
    train=("train",),
    test="test",
    names="meta",
    labels_key=b"fine_labels",
    names_key=b"fine_label_names",
    binary_names="fine_label_names.txt",
    binary_label_bytes=2,  # the coarse label stands before the fine one
    class_names=CIFAR100_NAMES,
)


def load_cifar10(
    root: str | Path,
    *,
    mean: Sequence[float] = CIFAR10.mean,
    std: Sequence[float] = CIFAR10.std,
    cutout: int = 0,
    download: bool = False,
) -> MemoryData:
    """CIFAR-10: 50,000 training and 10,000 test images, 3x32x32, ten classes; training pads by 4, crops and flips.

    Args:
        root: the folder with cifar-10-batches-py or cifar-10-batches-bin, or that folder itself; or the one with
            shards of WebP strips (cifar10_train_0.npz to _4.npz and cifar10_test.npz, see ``data.strips``).
        mean, std: per channel, of pixels in [0, 1].
        cutout: side of a square that training sets to zero.
        download: have torchvision download the set into root.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Raises:
        ValueError: files that are missing, cut off, damaged, or hold labels out of range; by path.
    """
    return _load(CIFAR10, root, mean, std, cutout, "CIFAR10" if download else None)


def load_cifar100(
    root: str | Path,
    *,
    mean: Sequence[float] = CIFAR100.mean,
    std: Sequence[float] = CIFAR100.std,
    cutout: int = 0,
    download: bool = False,
) -> MemoryData:
    """CIFAR-100: 50,000 training and 10,000 test images, 3x32x32, 100 classes; training pads by 4, crops and flips.

    The root is the folder with cifar-100-python or cifar-100-binary, or that folder itself, or the one with shards
    (cifar100_train_0.npz ...) of the fine labels. All else, what is raised, and the source are as ``load_cifar10``'s.
    """
    return _load(CIFAR100, root, mean, std, cutout, "CIFAR100" if download else None)


def _load(
    kind: _Set, root: str | Path, mean: Sequence[float], std: Sequence[float], cutout: int, fetched: str | None
) -> MemoryData:
    if fetched:
        download_with_torchvision(fetched, root, kind.how)
    files = {
        kind.python: [*kind.train, kind.test],
        kind.binary: [f"{file}.bin" for file in (*kind.train, kind.test)],
        STRIPS: [f"{kind.name}_{part}.npz" for part in SHARDS],
    }
    names = {kind.python: [kind.names], kind.binary: [kind.binary_names], STRIPS: []}
    layouts = {layout: files[layout] + names[layout] for layout in files}
    layout, folder = find_folder(kind.name, root, layouts, kind.how)
    if layout == kind.python:
        read, class_names = _read_pickle, _pickled_names(kind, folder)
    elif layout == kind.binary:
        read, class_names = _read_binary, _written_names(kind, folder)
    else:
        read, class_names = _read_shard, kind.class_names
    *train, test = (folder / file for file in files[layout])
    return MemoryData(
        name=kind.name,
        num_classes=kind.classes,
        train=_images(kind, read, train),
        test=_images(kind, read, [test]),
        mean=per_channel("mean", mean),
        std=per_channel("std", std),
        augment=Augment(pad=4, flip=True, cutout=cutout),
        class_names=class_names,
    )


def _images(kind: _Set, read: Callable[[_Set, Path], Pixels], paths: list[Path]) -> Images:
    """One split of one or more files, channels last in memory."""
    parts = []
    for path in paths:
        planes, labels = read(kind, path)
        if not len(labels):
            raise ValueError(f"{path} holds no images: is it {kind.name}?")
        if not 0 <= labels.min() <= labels.max() < kind.classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(f"{path} holds the label {wrong}, expected 0..{kind.classes - 1}: is it {kind.name}?")
        parts.append((planes.transpose(0, 2, 3, 1), labels))
    labels = np.concatenate([labels for _, labels in parts])
    images = np.concatenate([pixels for pixels, _ in parts], out=np.empty((len(labels), 32, 32, 3), np.uint8))
    return Images(images=torch.from_numpy(images).permute(0, 3, 1, 2), labels=torch.from_numpy(labels))


def _read_pickle(kind: _Set, path: Path) -> Pixels:
    content = load_plain_pickle(path)
    if not isinstance(content, dict) or not {b"data", kind.labels_key} <= content.keys():
        raise ValueError(f"{path} holds no data and {kind.labels_key.decode()}: is it {kind.name}?")
    rows, labels = content[b"data"], content[kind.labels_key]
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8:
        raise ValueError(f"{path}: data is {getattr(rows, 'dtype', type(rows).__name__)}, expected an array of uint8")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path}: {kind.labels_key.decode()} is no list of whole numbers")
    if rows.shape != (len(labels), PIXELS):
        raise ValueError(f"{path} holds pixels {rows.shape} and {len(labels)} labels, expected (n, {PIXELS}) and n")
    return rows.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _read_binary(kind: _Set, path: Path) -> Pixels:
    record = kind.binary_label_bytes + PIXELS
    content = np.fromfile(path, np.uint8)
    if len(content) % record:
        raise ValueError(
            f"{path} has {len(content)} bytes, no multiple of {record} (one image of {kind.name}): it is cut off or "
            "another file; get it again"
        )
    rows = content.reshape(-1, record)
    planes = rows[:, kind.binary_label_bytes :].reshape(-1, 3, 32, 32)
    return planes, rows[:, kind.binary_label_bytes - 1].astype(np.int64)


def _read_shard(_: _Set, path: Path) -> Pixels:
    images, labels = read_strips(path, (32, 32, 3))
    return images.transpose(0, 3, 1, 2), labels


def _pickled_names(kind: _Set, folder: Path) -> tuple[str, ...]:
    path = folder / kind.names
    content = load_plain_pickle(path)
    names = content.get(kind.names_key) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise ValueError(f"{path} holds no {kind.names_key.decode()}: is it {kind.name}?")
    return _checked_names(kind, path, [name if isinstance(name, str) else decoded(name, path) for name in names])


def _written_names(kind: _Set, folder: Path) -> tuple[str, ...]:
    path = folder / kind.binary_names
    return _checked_names(kind, path, decoded(path.read_bytes(), path).split())


def _checked_names(kind: _Set, path: Path, names: list[str]) -> tuple[str, ...]:
    if len(names) != kind.classes:
        raise ValueError(f"{path} names {len(names)} classes, expected {kind.classes}: is it {kind.name}?")
    return tuple(names)


DATASETS.add("cifar10", load_cifar10)
DATASETS.add("cifar100", load_cifar100)
