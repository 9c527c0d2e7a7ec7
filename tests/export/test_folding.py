import torch
from torch import nn

from flatbit.export.executor import integer_network
from flatbit.export.lowering import lower
from flatbit.export.program import INPUT, Affine, Flatten, Quantize
from flatbit.export.verification import verify
from flatbit.quant.presets import policy

from .cases import SHAPE, digits, labelled, network, settled

LSQ = policy("lsq", weights=4, activations=4)


def test_a_batch_norm_and_a_bias_become_one_map():
    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)), LSQ)
    assert sum(isinstance(op, Affine) for op in lower(model, SHAPE)) == 2


def test_an_input_is_coded_before_it_is_flattened():
    model = network("fcdnn", "lsq", in_features=64, width=16, block="residual")
    first, second = list(lower(model, SHAPE))[:2]
    assert isinstance(first, Quantize)
    assert first.inputs == (INPUT,)
    assert isinstance(second, Flatten)
    x, _ = digits()
    assert verify(model, integer_network(model, SHAPE), labelled(x, model)).changed == ()


def test_an_input_that_is_read_twice_stays_where_it_is():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.one, self.two = nn.Flatten(), nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x):
            x = self.flat(x)
            return self.one(x) + self.two(x)

    model = settled(Twice(), LSQ)
    assert isinstance(next(iter(lower(model, SHAPE))), Flatten)
    with torch.no_grad():
        assert model(digits(2)[0]).shape == (2, 10)
