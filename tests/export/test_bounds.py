import math

import torch
from torch import nn

from flatbit.export.bounds import accumulator_bound, bounds
from flatbit.export.lowering import lower
from flatbit.export.program import Product

from .cases import SHAPE, network


def test_a_bound_is_reached_by_the_worst_input():
    weight = torch.tensor([[3, -5], [1, 1]])
    product = Product(
        name="p", inputs=("x",), layer="l", weight=weight, scale=torch.ones(2).double(), bits=4,
        convolve=nn.functional.linear, geometry={},
    )  # fmt: skip
    assert accumulator_bound(product, -7, 7) == 56
    assert int(nn.functional.linear(torch.tensor([[7, -7]]), weight).abs().max()) == 56


def test_channels_of_a_grouped_transposed_convolution_are_counted_group_by_group():
    layer = nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)
    product = Product(
        name="p", inputs=("x",), layer="l", weight=layer.weight.detach(), scale=torch.ones(6).double(), bits=4,
        convolve=nn.functional.conv_transpose2d, geometry={}, channel_axis=1, groups=2,
    )  # fmt: skip
    ones = layer(torch.ones(1, 4, 1, 1)).flatten()
    assert torch.allclose(product.per_channel(layer.weight.detach()), ones)


def test_float32_errors_are_below_their_bound():
    model = network(first_width=4)
    program = lower(model, SHAPE)
    bound = bounds(program)
    assert 0 < float(bound[program.output].error.max()) < 1e-3
    assert math.isfinite(float(bound[program.output].size.max()))


def test_a_products_float32_error_is_seen_and_within_its_bound():
    program = lower(network(first_width=4), SHAPE)
    bound = bounds(program)
    for op in [op for op in program if isinstance(op, Product) and op.geometry]:
        coding = next(other for other in program if other.name == op.inputs[0]).coding
        n = torch.randint(coding.low, coding.high + 1, (4, op.weight.shape[1], 8, 8))
        scale = op.scale.reshape(-1, 1, 1, 1)
        exact = op.convolve(n.double() * coding.step, op.weight.double() * scale)
        found = op.convolve(n.float() * torch.tensor(coding.step), (op.weight.double() * scale).float())
        off = (found.double() - exact).abs().amax((0, 2, 3))
        assert off.max() > 0
        assert bool((off <= bound[op.name].error).all())
