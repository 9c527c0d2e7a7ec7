"""Small quantized, calibrated models with data that fit them: the contract of analyses takes the first that suits."""

from dataclasses import fields, is_dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.data.batches import VOID
from flatbit.data.joint import JointAugment
from flatbit.data.memory import Images, MemoryData
from flatbit.figures import ANALYSES
from flatbit.quant.table import own_weights


def digits():
    """A residual net with batch norm, and a tenth of the digits."""
    data = fb.data.load("digits")
    first = {
        split: Images(images=getattr(data, split).images[:120], labels=getattr(data, split).labels[:120])
        for split in ("train", "test")
    }
    return fb.models.build("preresnet8", in_channels=1, first_width=2), replace(data, **first)


def spirals():
    """A classifier of points of the plane."""
    return fb.models.build("fcdnn", width=8, depth=3), fb.data.load("spirals")


def squares():
    """A net with an answer per pixel, and bright squares on a dark ground under a line of void."""
    masks = torch.zeros(8, 16, 16, dtype=torch.uint8)
    for index in range(8):
        masks[index, 2 + index % 5 :, 3:9] = 1
    images = (masks[:, None] * 180 + torch.arange(16, dtype=torch.uint8)).expand(8, 3, 16, 16).contiguous()
    masks[:, 0] = VOID
    split = Images(images=images, labels=masks)
    data = MemoryData(
        name="squares", num_classes=2, train=split, test=split, mean=(0.5,) * 3, std=(0.2,) * 3,
        augment=JointAugment(), task="segmentation", class_names=("ground", "square"),
    )  # fmt: skip
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    return net, data


CASES = (digits, spirals, squares)


QUICK = {"points": 3, "num_images": 60}
"""Settings that make an analysis quick, where it has them."""


def subject(name, case):
    """What an analysis looks at, and data: a model, or three by name, of one grid but other weights."""
    model, data = made(case)
    if not ANALYSES.get(name).several:
        return model, data
    models = {"first": model, "second": made(case)[0], "third": made(case)[0]}
    for index, other in enumerate(models.values()):
        random = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for module in other.modules():
                for weight in own_weights(module):
                    weight += 0.05 * index * torch.randn(weight.shape, generator=random)
    return models, data


def computed(name, model, data, **more):
    """What an analysis finds, with ``QUICK`` settings."""
    analysis = ANALYSES.get(name)
    settings = {key: value for key, value in QUICK.items() if key in analysis.settings({})}
    return analysis.compute(model, data, **settings | more)


def made(case):
    """The model of a case, quantized, calibrated and partly in training mode, with a gradient; and its data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, data = case()
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    batches = data.train_batches(8, seed=0, augment=False)
    fb.calibrate_(model, batches, 2)
    x, _ = next(iter(batches))
    model.train()(x).sum().backward()
    next(model.children()).eval()
    return model, data


@cache
def fitting(name):
    """The first case whose model and data an analysis takes; it refuses the others by a ValueError."""
    refused = []
    for case in CASES:
        try:
            computed(name, *subject(name, case))
        except ValueError as error:
            refused.append(f"{case.__name__}: {error}")
        else:
            return case
    pytest.fail(f"analysis {name!r} takes none of the cases: {'; '.join(refused)}")


def same(one, other):
    """Whether two results are equal: dataclasses by their fields, arrays and tensors by their values."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one == other or (one != one and other != other)
