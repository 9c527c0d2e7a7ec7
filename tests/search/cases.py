"""Nets, spaces and prices that tests of several files search."""

import copy
import itertools

import torch
from torch import nn

import flatbit as fb
from flatbit.search.costs import Price, Prices
from flatbit.search.sensitivity import Probe
from flatbit.search.space import Choice, Space, space_of

WIDTHS = (2, 3, 4)
LSQ = fb.policy("lsq", weights=8, activations=8)
"""By which ``float_net`` is measured, at 2, 4 and 8 bits."""


class Calls(nn.Module):
    """A net of the user's, whose layers run in another order than they are defined in, summed by ``torch.add``."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(4, 6, 1)
        self.two, self.one = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.relu1, self.relu2 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = torch.add(self.shortcut(x), self.two(self.relu1(self.one(x))))
        return self.head(self.relu2(x).mean((2, 3)))


class Untraced(nn.Module):
    """A forward that depends on the data: nothing of it can be followed."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.more = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.inner(self.stem(x).relu())
        if x.sum() > 0:
            x = x * 2
        return self.head(self.more(x.relu()).mean((2, 3)))


def quantized(model, policy="saq", bits=4, **settings):
    """The model, quantized, not calibrated; what cannot be stays float."""
    fb.quantize_(model.eval(), fb.policy(policy, weights=bits, activations=bits), strict=False, **settings)
    return model


def preresnet(**arguments):
    """A pre-activation net of 8 layers and 4 channels for grey images: six convolutions in four choices."""
    return fb.models.build("preresnet8", **({"in_channels": 1, "first_width": 4} | arguments))


def priced(model, shape, widths=WIDTHS):
    """Its space and prices."""
    space = space_of(model, widths)
    return space, Prices.of(model, space, shape)


def shared(data, widths=WIDTHS, seed=0, model=None):
    """A net on data with a step per width, calibrated; and its space and prices."""
    torch.manual_seed(seed)
    model = model or preresnet(num_classes=data.num_classes)
    fb.quantize_(model, fb.policy("saq", weights=widths[-1], activations=widths[-1]), candidates=widths)
    fb.calibrate_(model, data.train_batches(16, seed=0))
    return model, *priced(model, data.image_shape, widths)


def free_space(*widths):
    """Choices ``a``, ``b``, ... of these widths."""
    return Space(choices=tuple(Choice(layers=(chr(97 + i),), widths=each) for i, each in enumerate(widths)))


def free_prices(*rows, fixed=(0, 0)):
    """Prices of choices ``a``, ``b``, ...: each row gives (bit-operations, bytes) by width."""
    choices = {
        chr(97 + i): {bits: Price(bitops=spent, size_bytes=size) for bits, (spent, size) in row.items()}
        for i, row in enumerate(rows)
    }
    return Prices(fixed=Price(bitops=fixed[0], size_bytes=fixed[1]), choices=choices)


def every(prices):
    """All assignments."""
    names = list(prices.choices)
    for widths in itertools.product(*(prices.choices[name] for name in names)):
        yield dict(zip(names, widths, strict=True))


def float_net():
    """Four layers, narrow: each of them matters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def measured_space(widths=(2, 4, 8)):
    """Of ``float_net``."""
    twin = float_net().eval()
    fb.quantize_(twin, LSQ)
    return space_of(twin, widths)


def probe_of(model, batches):
    """A copy of a trained ``float_net``, as measures have it."""
    return Probe(model=copy.deepcopy(model).eval(), policy=LSQ, batches=batches)
