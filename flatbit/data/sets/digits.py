"""Digits: 1,797 handwritten digits of 8x8 pixels, embedded in scikit-learn; the default data set."""

from __future__ import annotations

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split

from .. import DATASETS
from ..augment import Augment
from ..memory import Images, MemoryData

TEST_SIZE = 450


def load_digits() -> MemoryData:
    """1,347 training and 450 test images, one channel; the split is stratified and always the same.

    The 17 grey levels 0..16 are spread over 0..255. Training shifts images by up to one pixel.
    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI 1998 (its test part).
    """
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, labels, test_size=TEST_SIZE, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
    scaled = train_x.float() / 255
    return MemoryData(
        name="digits",
        num_classes=10,
        train=Images(images=train_x, labels=train_y.long()),
        test=Images(images=test_x, labels=test_y.long()),
        mean=(float(scaled.mean()),),
        std=(float(scaled.std()),),
        augment=Augment(pad=1),
        class_names=tuple("0123456789"),
    )


DATASETS.add("digits", load_digits)
