import math

import torch
from torch import nn

from flatbit.export.bounds import accumulator_bound, bounds
from flatbit.export.executor import integer_network
from flatbit.export.lowering import lower
from flatbit.export.program import Product
from flatbit.export.verification import verify

from .cases import SHAPE, UNIQ, digits, labelled, network, settled


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


def test_a_bias_that_its_norm_takes_off_again_is_rounded_all_the_same():
    """A bias of thousands and a mean that cancels it: float32 loses what neither the shift nor the result shows."""
    layer, norm = nn.Conv2d(1, 10, 8), nn.BatchNorm2d(10)
    model = settled(nn.Sequential(layer, norm, nn.Flatten()), UNIQ)
    with torch.no_grad():
        layer.bias += 5000
        norm.running_mean += 5000
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.changed == ()
    assert 1e-5 < found.largest <= found.bound


def test_sums_of_the_images_at_hand_are_below_those_of_the_grids():
    model = network("resnet20", width=0.5)
    program = lower(model, SHAPE)
    products = [op for op in program if isinstance(op, Product)]
    most, some = bounds(program), bounds(program, {op.name: torch.ones(len(op.scale)).double() for op in products})
    for op in products:
        assert bool((some[op.name].size == 1).all())
        assert some[op.name].error.max() < most[op.name].error.max()
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.largest <= found.bound < float(most[program.output].error.max())


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
