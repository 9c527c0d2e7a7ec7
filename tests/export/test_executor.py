import pytest
import torch

from flatbit.data.normalize import Normalize
from flatbit.export.executor import integer_network
from flatbit.export.integer import Encode

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
