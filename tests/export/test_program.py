import pytest
import torch
from torch import nn

from flatbit.export.lowering import lower
from flatbit.export.program import Coding, FloatProduct, Product
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

from .cases import SHAPE, network


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 0, 1), (0, 1, 1), (0, 255, 8), (-1, 1, 2), (-128, 127, 8), (-255, 255, 9)]
)
def test_the_bits_of_a_coding(low, high, bits):
    assert Coding(step=1.0, offset=0.0, low=low, high=high).bits == bits


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(6, 4, 3, groups=2),
        nn.ConvTranspose1d(6, 4, 3, groups=2),
        nn.ConvTranspose1d(6, 4, 3),
        nn.Conv1d(6, 4, 3),
    ],
    ids=str,
)
def test_weights_are_codes_times_the_steps_of_their_channels(layer):
    model = nn.Sequential(layer)
    quantize_(model, policy("uniq", weights=3, activations=3))
    x = torch.randn(4, 6, 9)
    calibrate_(model, [x])
    product = next(op for op in lower(model, (6, 9)) if isinstance(op, Product))
    assert product.doubled
    steps = product.per_weight(product.scale)
    assert torch.allclose((product.weight * steps).float(), model[0].quantized_weight(), rtol=1e-6)
    assert torch.equal(product.per_channel(steps.expand(product.weight.shape)) > 0, torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(("choice", "operand"), [({"first_last_bits": 32}, "weight"), ({"image_bits": 32}, "input")])
def test_products_say_which_operand_is_float(choice, operand):
    made = policy("saq", weights=2, activations=2, **({"first_last_bits": 8, "image_bits": 8} | choice))
    first = next(op for op in lower(network("resnet8", made=made), SHAPE) if isinstance(op, Product))
    assert isinstance(first, FloatProduct)
    assert first.operand == operand
