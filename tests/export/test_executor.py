import pytest
import torch
from torch import nn

from flatbit.data.normalize import Normalize
from flatbit.export.executor import integer_network
from flatbit.export.integer import Encode
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

from .cases import SHAPE, digits, network


def test_pixels_go_through_a_table():
    model = network(first_width=4)
    normalize = Normalize((0.3,), (0.25,))
    net = integer_network(model, SHAPE, prepare=normalize)
    pixels = torch.randint(256, (5, *SHAPE), dtype=torch.uint8)
    assert torch.equal(net.integers(pixels), net.integers(normalize(pixels)))
    first = next(op for op in net.program.operations if isinstance(op, Encode))
    assert first.pixels is not None
    assert first.pixels.shape == (1, 256)


def test_pixels_without_a_table_and_preparing_that_mixes_are_refused():
    model = network(first_width=4)
    with pytest.raises(ValueError, match="no table for them"):
        integer_network(model, SHAPE)(torch.zeros(1, *SHAPE, dtype=torch.uint8))
    with pytest.raises(ValueError, match="one table per channel cannot"):
        integer_network(model, SHAPE, prepare=lambda x: x.float().cumsum(-1))


def test_logits_are_the_integers_at_their_scale_and_each_result_is_seen():
    net, seen = integer_network(network(first_width=4), SHAPE), {}
    x, _ = digits(4)
    logits = net(x, seen.__setitem__)
    assert logits.dtype == torch.float64
    assert torch.equal(logits, net.integers(x).double() * 2.0 ** -net.program.fraction_bits[net.program.output])
    assert list(seen) == [op.name for op in net.program.operations]
    assert all(n.dtype == torch.int64 for n in seen.values())


def test_a_table_serves_no_channel_that_depends_on_another():
    model = settled_rgb()
    mixed = lambda p: p.float().mean(1, keepdim=True).expand(-1, 3, -1, -1) / 255  # noqa: E731
    with pytest.raises(ValueError, match="mixes pixels or channels"):
        integer_network(model, (3, 8, 8), prepare=mixed)


def settled_rgb():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    quantize_(model, policy("uniq", weights=4, activations=4))
    calibrate_(model, [torch.randn(8, 3, 8, 8)])
    return model.eval()


def test_an_input_below_the_grid_gets_its_lowest_code():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    quantize_(model, policy("dq", weights=4, activations=4))
    calibrate_(model, [torch.rand(8, *SHAPE)])
    x, net = torch.rand(8, *SHAPE) - 0.5, integer_network(model.eval(), SHAPE)
    with torch.no_grad():
        assert torch.allclose(net(x).float(), model(x), atol=1e-5)
