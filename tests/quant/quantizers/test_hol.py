"""HOL's conventions: what each of its three experiments quantizes, and where."""

import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.quant.policy import POLICIES
from flatbit.quant.presets import policy
from flatbit.quant.proof import prove
from flatbit.quant.quantizers import METHODS
from flatbit.quant.quantizers import hol as file
from flatbit.quant.quantizers.pact import PactActivation
from flatbit.quant.quantizers.sqwa import SqwaWeight


def test_is_three_conventions_and_no_method_of_its_own():
    assert {name for name in POLICIES.names() if POLICIES.get(name).__module__ == file.__name__} == {
        "hol",
        "hol-synthetic",
        "hol-imagenet",
    }
    assert "hol" not in METHODS.names()


@pytest.mark.parametrize(
    ("name", "residual", "grid"),
    [("hol", 2, "midtread"), ("hol-imagenet", 8, "midrise"), ("hol-synthetic", None, "midtread")],
)
def test_weights_are_sqwas_and_activations_pacts_at_outputs(images, quantized, name, residual, grid):
    model = models.build("preresnet8", in_channels=1, first_width=4, variant="hol").eval()
    quantized(model, name, 2, 2)
    block = model.layers[1][0]
    assert isinstance(block.conv1.weight_quantizer, SqwaWeight)
    assert block.conv1.weight_quantizer.kind == grid
    assert block.conv1.input_quantizer is None
    relus = [m for m in block.modules() if isinstance(m, nn.ReLU)]
    assert relus
    assert all(isinstance(m.output_quantizer, PactActivation) and m.output_quantizer.stated_bits == 2 for m in relus)
    if residual is None:
        assert type(block.residual) is nn.Identity
    else:
        assert block.residual.output_quantizer.stated_bits == residual


@pytest.mark.parametrize(("name", "first"), [("hol", 32), ("hol-imagenet", 32), ("hol-synthetic", 2)])
def test_first_and_last_layers(name, first):
    specs = policy(name, weights=2, activations=2).resolve(models.build("preresnet8"))
    for edge in ("conv1", "fc"):
        assert (specs[edge].weight.bits if specs[edge].weight else 32) == first
        assert specs[edge].input is None


def test_four_levels_of_two_bits_have_no_zero(images, quantized):
    model = models.build("preresnet8", in_channels=1, first_width=4, variant="hol").eval()
    quantized(model, "hol-imagenet", 2, 4)
    weight = model.layers[1][0].conv1.quantized_weight()
    assert weight.unique().numel() == 4
    assert not (weight == 0).any()
    assert prove(model, images).usage["layers.1.0.conv1.weight_quantizer"].used == 4


def test_float_activations_stay_float_at_the_residuals_too():
    for name in ("hol", "hol-imagenet", "hol-synthetic"):
        specs = policy(name, weights=2).resolve(models.build("preresnet8"))
        assert all(spec.output is None and spec.input is None for spec in specs.values())


def test_residual_tensors_are_signed_and_relus_are_not(quantized):
    torch.manual_seed(0)
    model = models.build("preresnet8", in_channels=1, first_width=4, variant="hol").eval()
    quantized(model, "hol", 4, 4)
    assert model.layers[1][0].residual.output_quantizer.signed
    assert not any(m.output_quantizer.signed for m in model.modules() if isinstance(m, nn.ReLU))
