import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy
from flatbit.quant.proof import QuantizationError, prove


class Calls(nn.Module):
    """Calls its layer, and once more in a way that no hook of the layer sees."""

    def __init__(self, again):
        super().__init__()
        self.first, self.relu, self.linear, self.last = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)
        self.again = again

    def forward(self, x):
        return self.last(F.relu(self.linear(self.relu(self.first(x))) + self.again(self.linear, x)))


def proved(again, **settings):
    model, x = Calls(again).eval(), torch.randn(8, 8)
    quantize_(model, policy("uniq", weights=2, **settings))
    calibrate_(model, [x])
    return prove(model, x).usage


def by_forward(layer, x):
    return layer.forward(x)


def by_weight(layer, x):
    return F.linear(x, layer.quantized_weight() if hasattr(layer, "spec") else layer.weight)


def by_both(layer, x):
    return F.linear(layer.quantized_input(x), layer.quantized_weight()) if hasattr(layer, "spec") else layer(x)


@pytest.mark.parametrize(
    ("again", "settings"),
    [
        (by_forward, {"activations": 2, "placement": "output"}),
        (by_weight, {"activations": 2, "placement": "output"}),
        (by_weight, {"activations": 2}),
    ],
)
def test_activations_that_nothing_sees_are_caught(again, settings):
    with pytest.raises(QuantizationError, match="quantized weights of 'linear' are used outside"):
        proved(again, **settings)


@pytest.mark.parametrize(
    ("again", "settings"),
    [
        (by_forward, {"activations": 2}),
        (by_both, {"activations": 2}),
        (by_weight, {"activations": 32}),
    ],
)
def test_what_is_quantized_as_stated_passes_however_it_is_called(again, settings):
    assert proved(again, **settings)
