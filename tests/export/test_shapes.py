import pytest
import torch
from torch import nn

from flatbit.export.executor import integer_network
from flatbit.export.lowering import lower
from flatbit.export.program import INPUT
from flatbit.export.shapes import shapes
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

from .cases import SHAPE, digits, network


@pytest.mark.parametrize("name", ["resnet8", "depthwise_resnet", "fcdnn"])
def test_they_are_those_of_what_is_computed(name):
    arguments = {"in_features": 64, "width": 8, "block": "residual"} if name == "fcdnn" else {}
    model, results = network(name, **arguments), {}
    integer_network(model, SHAPE)(digits(1)[0], results.__setitem__)
    found = shapes(lower(model, SHAPE))
    assert found.pop(INPUT) == (1, *SHAPE)
    assert found == {name: tuple(results[name].shape) for name in found}


def test_an_input_of_another_shape_is_refused_by_layer():
    with pytest.raises(ValueError, match=r"layer 'conv1': cannot take shape \(1, 3, 8, 8\), .* of shape \(3, 8, 8\)"):
        lower(network("resnet8"), (3, 8, 8))


def test_a_linear_layer_of_several_vectors_is_refused():
    """Its channels would be on the last axis, where batch norms and convolutions have them on the second."""
    model = nn.Sequential(nn.Linear(4, 4))
    quantize_(model, policy("lsq", weights=4, activations=4))
    calibrate_(model, [torch.randn(8, 4, 4)])
    with pytest.raises(ValueError, match=r"layer '0': a linear layer got a shape \(1, 4, 4\) .*: flatten before it"):
        lower(model, (4, 4))
