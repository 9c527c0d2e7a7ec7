"""Losses, schedules and optimizers as they are registered, made small: what their contracts run over."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain, product
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit import plain
from flatbit.data.batches import VOID
from flatbit.reference import From

SMALL: dict[Any, tuple[Any, ...]] = {
    float: (0.01, 1.0), int: (1, 0, 2), bool: (False, True), str: ("small",), Any: (1,), From: (From.start(),),
}  # fmt: skip


def small(kind):
    """Small values of an annotation, the likeliest first."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if kind in SMALL:
        return SMALL[kind]
    if origin is Literal:
        return inner
    if len(alternatives := plain.members(kind)) > 1:
        return (None,) if type(None) in alternatives else tuple(chain(*map(small, alternatives)))
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return tuple(product(*map(small, inner)))
    if origin in (tuple, list, Sequence):
        return (*((value,) for value in small((*inner, Any)[0])), ())
    if origin in (dict, Mapping):
        return ({},)
    if (family := plain.family_of(kind)) is not None:
        return tuple(member() for member in map(family.get, family.names()) if not needed(member))
    return (made(kind),)


def needed(kind):
    """The fields of a dataclass that have no default."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(kind) if f.init and f.default is f.default_factory is missing]


def made(kind):
    """A registered class with its defaults, and small values where it has none."""
    hints, names = plain.fields_of(kind), needed(kind)
    refusals = []
    for values in product(*(small(hints[name]) for name in names)):
        try:
            return kind(**dict(zip(names, values, strict=True)))
        except ValueError as error:
            refusals.append(str(error))
    pytest.fail(f"{kind.__name__} cannot be made of small values for {', '.join(names)}: {refusals}")


# Nets and batches that a loss may act on


def learned():
    """A net whose bits are learned, and a batch of images."""
    model = fb.models.build("preresnet8", in_channels=1, first_width=2)
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 10
    fb.quantize_(model, fb.policy("dq", weights=3, activations=3))
    fb.calibrate_(model, [x])
    return model, x, y


def floating():
    """A float classifier of points, with dropout."""
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    return net, torch.randn(6, 2), torch.arange(6) % 3


def pixels():
    """A net with an answer for each pixel, some of them void."""
    y = torch.randint(3, (2, 6, 6))
    y[0, :2] = VOID
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    return net, torch.randn(2, 1, 6, 6), y


NETS = (learned, floating, pixels)


def ready(net):
    """A case's net in training mode, but for its last part; its batch; and a teacher like it."""
    torch.manual_seed(7)
    model, x, y = net()
    teacher, _, _ = net()
    model.train()
    list(model.children())[-1].eval()
    return model, x, y, teacher


def acting(kind):
    """A registered loss on the first net that it acts on; it refuses the others by a ValueError."""
    refusals = []
    for net in NETS:
        model, x, y, teacher = ready(net)
        term = made(kind).bound(lambda source, teacher=teacher: teacher)
        try:
            term.check(model)
            term(model, x, y, model(x))
        except ValueError as error:
            refusals.append(f"{net.__name__}: {error}")
        else:
            return term, *ready(net)[:3]
    pytest.fail(f"{kind.__name__} acts on none of the nets: {'; '.join(refusals)}")
