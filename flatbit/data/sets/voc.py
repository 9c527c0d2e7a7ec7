"""PASCAL VOC 2012 segmentation, with SBD's additions where they are; read as it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import DATASETS
from ..arguments import check_whole, per_channel
from ..batches import VOID, Batch
from ..files import decoded, find_folder, one_of
from ..files import download as download_with_torchvision
from ..joint import JointAugment
from ..masks import fill_of, read_pair
from ..samples import Samples
from ..stream import StreamData, default_workers
from .image_folder import IMAGENET_MEAN, IMAGENET_STD

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
HOW = (
    "fetch VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack it there, or "
    "pass download=True (--data-arg download=true) where torchvision is installed"
)
AUG_HOW = (
    "the list and masks made from SBD: put trainaug.txt in ImageSets/Segmentation and the masks, class indices "
    "of both sets, in SegmentationClassAug, as DeepLab's repositories distribute them"
)


def load_voc2012(
    root: str | Path,
    *,
    train: str = "train",
    test: str = "val",
    size: int = 513,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    skip_bad: bool = False,
    download: bool = False,
) -> StreamData:
    """PASCAL VOC 2012 segmentation: 21 classes with the background; 1,464 (10,582 with SBD) and 1,449 images.

    Training scales by 0.5 to 2, takes a window of size x size, and mirrors half. A test image is put, as
    it is, in the upper left corner of a frame of that size; the rest of the frame is mean and void.

    Args:
        root: the folder VOC2012, the VOCdevkit that holds it, or the one that holds that.
        train: list in ImageSets/Segmentation; "train_aug" is the one with SBD, whose masks are in
            SegmentationClassAug.
        test: list.
        size: side of windows and frames; test images are at most that large.
        mean, std: per channel, of pixels in [0, 1].
        skip_bad: leave out files that cannot be read and list them; else raise.
        download: have torchvision download the set into root.

    Source: Everingham et al., IJCV 2010; Hariharan et al., ICCV 2011 (SBD).

    Raises:
        ValueError: files that are missing, a list that is empty or not understood.
    """
    check_whole("size", size, 1)
    if download:
        download_with_torchvision("VOCSegmentation", root, HOW, year="2012", image_set="trainval")
    inside = ["JPEGImages", "SegmentationClass", "ImageSets/Segmentation"]
    places = ("VOCdevkit/VOC2012", "VOC2012")
    _, folder = find_folder("voc2012", root, dict.fromkeys(places, inside), HOW)
    fill = fill_of(mean)
    augment = JointAugment(size=(size, size), fill=fill)
    return StreamData(
        name="voc2012",
        num_classes=len(CLASSES),
        train=_Pairs(_voc_pairs(folder, train), len(CLASSES), augment, size, fill),
        test=_Pairs(_voc_pairs(folder, test), len(CLASSES), augment, size, fill),
        shape=(3, size, size),
        mean=per_channel("mean", mean),
        std=per_channel("std", std),
        class_names=CLASSES,
        task="segmentation",
        workers=default_workers(),
        skip_bad=skip_bad,
    )


@final
class _Pairs(Samples):
    """Image files and mask files."""

    def __init__(
        self, paths: list[tuple[Path, Path]], classes: int, augment: JointAugment, size: int, fill: tuple[float, ...]
    ) -> None:
        self.paths, self.classes, self.augment, self.size, self.fill = paths, classes, augment, size, fill

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index][0])

    def read(self, index: int, stream: torch.Generator | None) -> Batch:
        image, mask = read_pair(*self.paths[index], self.classes)
        if stream is None:
            return self._framed(image), self._framed_mask(mask)
        images, masks = self.augment.apply(image[None], mask[None], self.augment.draw(1, image.shape, stream))
        return images[0], masks[0]

    def _framed(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        if max(height, width) > self.size:
            raise ValueError(
                f"{width}x{height} pixels do not fit a frame of {self.size}: load with size={max(height, width)}"
            )
        frame = torch.tensor(self.fill, dtype=torch.uint8).reshape(3, 1, 1).repeat(1, self.size, self.size)
        frame[:, :height, :width] = image
        return frame

    def _framed_mask(self, mask: Tensor) -> Tensor:
        return F.pad(mask, (0, self.size - mask.shape[1], 0, self.size - mask.shape[0]), value=VOID)


def _voc_pairs(folder: Path, name: str) -> list[tuple[Path, Path]]:
    """The pairs of a list: a stem per line, or an image's and a mask's path below the folder."""
    lists = folder / "ImageSets" / "Segmentation"
    file = "train_aug.txt|trainaug.txt" if name == "train_aug" else f"{name}.txt"
    masks = "SegmentationClassAug" if name == "train_aug" else "SegmentationClass"
    if not any((lists / part).is_file() for part in file.split("|")):
        have = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        more = f"; {AUG_HOW}" if name == "train_aug" else ""
        raise ValueError(f"{lists} has no {file.replace('|', ' or ')}: it has {have}{more}")
    path = one_of(lists, file)
    pairs = []
    for number, line in enumerate(decoded(path.read_bytes(), path).splitlines(), 1):
        parts = line.split()
        if len(parts) == 2 and "/" in parts[0]:
            pairs.append((folder / parts[0].lstrip("/"), folder / parts[1].lstrip("/")))
        elif len(parts) == 1:
            pairs.append((folder / "JPEGImages" / f"{parts[0]}.jpg", folder / masks / f"{parts[0]}.png"))
        elif parts:
            raise ValueError(f"{path}, line {number}: {line!r} is neither a name nor an image's and a mask's path")
    if not pairs:
        raise ValueError(f"{path} is empty: {HOW}")
    return pairs


DATASETS.add("voc2012", load_voc2012)
