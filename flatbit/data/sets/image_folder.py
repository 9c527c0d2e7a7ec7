"""Folders of images, one folder per class: ImageNet's layout, with its standard crops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image

from .. import DATASETS
from ..arguments import check_whole, per_channel
from ..batches import Batch, LeftOut
from ..decode import IMAGE_SUFFIXES, central_box, random_box, read_crop
from ..samples import Samples
from ..stream import StreamData, default_workers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HOW = (
    "it is a folder with train/CLASS/*.jpg and val/CLASS/*.jpg. ImageNet (ILSVRC 2012) is behind a form at "
    "https://image-net.org; its validation images come in one folder and are sorted into classes by "
    "https://github.com/soumith/imagenetloader.torch/blob/master/valprep.sh"
)


def load_image_folder(
    root: str | Path,
    *,
    size: int = 224,
    resize: int = 256,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    train: str = "train",
    test: str = "val",
    skip_bad: bool = False,
) -> StreamData:
    """Images in root/train/CLASS/ and root/val/CLASS/, as ImageNet has them; read as they are needed.

    Training takes a random box of 8 to 100 % of the area, resized to size x size, and mirrors half
    [torchvision's RandomResizedCrop and flip]; testing takes the square in the middle that a resize of the
    shorter side to ``resize`` and a crop of ``size`` would take. Any mode of image comes as RGB.
    Hidden files (.DS_Store) are no images and are not counted.

    Args:
        root: the folder.
        size: side of the network's input.
        resize: what the shorter side of a test image would be.
        mean, std: per channel, of pixels in [0, 1].
        train, test: the splits' folders.
        skip_bad: leave out files that cannot be read, or are no images, and list them; else raise.

    Raises:
        ValueError: folders that are missing, classes without images, other classes in the two splits, sizes that make
            no sense.
    """
    root = Path(root).expanduser()
    check_whole("size", size, 1)
    check_whole("resize", resize, 1)
    if size > resize:
        raise ValueError(f"size={size}, resize={resize}: expected 0 < size <= resize")
    classes = _same_classes(root, train, test, "image_folder")
    left_out = LeftOut()
    splits = [
        _Files(*_files(root / split, classes, left_out, skip_bad), size=size, share=size / resize)
        for split in (train, test)
    ]
    return StreamData(
        name="image_folder",
        num_classes=len(classes),
        train=splits[0],
        test=splits[1],
        shape=(3, size, size),
        mean=per_channel("mean", mean),
        std=per_channel("std", std),
        class_names=tuple(classes),
        workers=default_workers(),
        skip_bad=skip_bad,
        left_out=left_out,
    )


def load_imagenet(root: str | Path, *, skip_bad: bool = False) -> StreamData:
    """ImageNet, ILSVRC 2012: 1,000 classes in root/train/CLASS and root/val/CLASS, crops of 224 pixels.

    Args:
        root: the folder.
        skip_bad: leave out files that cannot be read, and list them; else raise.

    Raises:
        ValueError: as ``load_image_folder``; another number of classes than 1,000.
    """
    classes = _same_classes(Path(root).expanduser(), "train", "val", "imagenet")
    if len(classes) != 1000:
        raise ValueError(f"{root} has {len(classes)} classes, ImageNet 1000: for another set say image_folder")
    return replace(load_image_folder(root, skip_bad=skip_bad), name="imagenet")


@final
class _Files(Samples):
    """Image files and their labels; paths are kept as one array, which worker processes share."""

    def __init__(self, files: np.ndarray, labels: np.ndarray, *, size: int, share: float) -> None:
        self.files, self.labels, self.size, self.share = files, labels, size, share

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return os.fsdecode(self.files[index])

    def read(self, index: int, stream: torch.Generator | None) -> Batch:
        label = torch.tensor(int(self.labels[index]))
        if stream is None:
            return self.from_file(self.name(index)), label
        with Image.open(self.name(index)) as image:
            mirrored = bool(torch.rand(1, generator=stream) < 0.5)
            x = read_crop(image, random_box(*image.size, stream), (self.size, self.size))
        return x.flip(2) if mirrored else x, label

    def from_file(self, path: str | Path) -> torch.Tensor:
        with Image.open(path) as image:
            return read_crop(image, central_box(*image.size, self.share), (self.size, self.size))


def _same_classes(root: Path, train: str, test: str, name: str) -> list[str]:
    """The class folders, sorted. Raises ValueError where there are none, or others in the two splits."""
    classes, others = (_classes(root, split, name) for split in (train, test))
    if others != classes:
        differing = sorted(set(classes) ^ set(others))
        raise ValueError(
            f"{root / train} and {root / test} have other classes: {_few(differing)} is in one of them only"
        )
    return classes


def _classes(root: Path, split: str, name: str) -> list[str]:
    """The class folders of a split, sorted. Raises ValueError where there are none."""
    folder = root / split
    if not folder.is_dir():
        raise ValueError(f"data set {name!r} is not in {root}: there is no folder {folder}.\nTo get it: {HOW}")
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} has no folders, one per class, in it.\nExpected: {HOW}")
    return found


def _files(folder: Path, classes: list[str], left_out: dict[str, str], skip_bad: bool) -> tuple[np.ndarray, np.ndarray]:
    """Paths (as bytes) and labels of a split's images, sorted by class and name."""
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_in(folder / name, left_out, skip_bad)
        if not found:
            raise ValueError(f"{folder / name} has no images: put some there, or remove the class in both splits")
        files += found
        labels += [label] * len(found)
    return np.array(files), np.array(labels, dtype=np.int64)


def _images_in(folder: Path, left_out: dict[str, str], skip_bad: bool) -> list[bytes]:
    found: list[bytes] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a million of them
            found.append(os.fsencode(entry.path))
        elif skip_bad:
            left_out[entry.path] = "no image, by its name"
        else:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(
                f"{entry.path} is no image ({kinds}): remove it, or list and leave out such: skip_bad=True (--skip-bad)"
            )
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


DATASETS.add("image_folder", load_image_folder)
DATASETS.add("imagenet", load_imagenet)
