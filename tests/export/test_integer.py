import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flatbit.export.executor import integer_network
from flatbit.export.integer import Accumulate, Limit, Mean, Rescale, Round
from flatbit.export.program import AveragePool
from flatbit.quant.rounding import nearest_code

from .cases import SHAPE, digits, network

PARTS = {"name": "r", "inputs": ("x",), "layer": "l"}


def plain_convolution(x, w, *, stride, padding, dilation, groups):
    """The definition, in numpy's int64: one loop over the kernel's places."""
    x = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    n, channels, height, width = x.shape
    out, per_group, kh, kw = w.shape
    rows = (height - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, out, rows, columns), dtype=np.int64)
    for o, i, a, b in itertools.product(range(out), range(per_group), range(kh), range(kw)):
        channel = o // (out // groups) * (channels // groups) + i
        picked = x[:, channel, a * dilation[0] :: stride[0], b * dilation[1] :: stride[1]][:, :rows, :columns]
        y[:, o] += picked * w[o, i, a, b]
    return y


@pytest.mark.parametrize(("name", "bits"), [("preresnet8", 4), ("preresnet8", 8), ("depthwise_resnet", 2)])
def test_products_are_those_of_integers(name, bits):
    arguments = {"first_width": 4} if name == "preresnet8" else {"depth": 11}
    model = network(name, "uniq", bits, bits, **arguments)
    net, results = integer_network(model, SHAPE), {}
    net(digits(3)[0], results.__setitem__)
    checked = 0
    for op in net.program.operations:
        if isinstance(op, Accumulate) and op.product.geometry:
            x, w = results[op.inputs[0]].numpy(), op.product.weight.numpy()
            assert np.array_equal(results[op.name].numpy(), plain_convolution(x, w, **op.product.geometry))
            checked += 1
    assert checked == sum(isinstance(module, nn.Conv2d) for module in model.modules())


ints = st.integers(-(2**30), 2**30)


@given(ints, st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**60), 2**60), st.integers(0, 30))
def test_rescaling_rounds_down_after_the_shift(n, multiplier, addend, shift):
    op = Rescale(**PARTS, multiplier=torch.tensor(multiplier), addend=torch.tensor(addend), shift=shift)
    exact = Fraction(n * multiplier + addend, 2**shift)
    assert int(op.run(torch.tensor([[n]]))) == exact.numerator // exact.denominator


@pytest.mark.parametrize(
    ("ties", "offset", "low", "high"),
    [
        *itertools.product(["even", "even_from_low"], [0.0], [-8, -7, 0], [7]),
        *((ties, 0.5, -half, half - 1) for ties in ("even", "even_from_low", "away") for half in (8, 1)),
        ("away", 0.0, -7, 7),
    ],
)
def test_rounding_is_the_quantizers_ties_included(ties, offset, low, high):
    n = torch.arange(-800, 801)  # a stream of quarters: every fourth lies half way
    shift, multiplier = 40, 2**38
    op = Round(
        **PARTS, multiplier=multiplier, addend=round((0.5 - offset) * 2**shift), shift=shift, low=low, high=high,
        ties=ties, doubled=offset == 0.5,
    )  # fmt: skip
    codes = nearest_code(n / 4.0, torch.tensor(1.0), offset, low, high, ties).long()
    assert torch.equal(op.run(n), 2 * codes + 1 if offset else codes)


@given(st.lists(st.integers(-1000, 1000), min_size=6, max_size=6))
def test_means_are_rounded_to_the_nearest(values):
    op = Mean(**PARTS, pool=AveragePool(name="p", inputs=("x",), layer="l", kernel=(2, 3), stride=(2, 3)))
    exact = Fraction(sum(values), 6)
    got = int(op.run(torch.tensor(values).reshape(1, 1, 2, 3)))
    assert abs(got - exact) <= Fraction(1, 2)


def test_an_open_end_limits_nothing():
    assert Limit(**PARTS, low=0, high=None).run(torch.tensor([-5, 2**40])).tolist() == [0, 2**40]
