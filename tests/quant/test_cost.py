import math

import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.presets import policy
from flatbit.quant.spec import LayerSpec


def saq_resnet20(bits=None, **arguments):
    model = models.build("preresnet20", num_classes=100, variant="saq", **arguments)
    if bits:
        quantize_(model, policy("saq", weights=bits, activations=bits))
    return cost(model, (3, 32, 32))


@pytest.mark.parametrize(
    ("bits", "millions"), [(None, 41798.599), (5, 1038.0), (4, 674.644), (3, 392.053), (2, 190.202)]
)
def test_bit_operations_of_saqs_resnet20(bits, millions):
    """SAQ Table 1 (41798.6 / 674.6 / 392.1 M) and the specification's 4.4, to its last digit."""
    tolerance = 0.05 if bits == 5 else 0.0005
    assert saq_resnet20(bits).bitops / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize(("bits", "millions"), [(None, 41530.163), (4, 670.450), (3, 389.693)])
def test_bit_operations_without_shortcut_convolutions(bits, millions):
    """Option A has none: the row of 4.4 that the paper's figures exclude."""
    model = models.build("resnet20", num_classes=100, shortcut="A")
    if bits:
        quantize_(model, policy("saq", weights=bits, activations=bits))
    assert cost(model, (3, 32, 32)).bitops / 1e6 == pytest.approx(millions, abs=0.0005)


def test_fixed_part_of_the_search_range():
    """First convolution and linear layer stay at 8 bits: 28.72 M of SAMQ's ResNet-20."""
    layers = {layer.name: layer for layer in saq_resnet20(2).layers}
    assert (layers["conv1"].bitops + layers["fc"].bitops) / 1e6 == pytest.approx(28.72, abs=0.005)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 8, 8), 9 * 4 * 3 * 16),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 8, 8), 9 * 4 * 36),
        (nn.Conv1d(3, 5, 4), (3, 10), 4 * 3 * 5 * 7),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (3, 7), 105),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), 4 * 4 * 6 * 25),
    ],
)
def test_multiply_adds_of_each_kind(layer, shape, macs):
    found = cost(nn.Sequential(layer), shape)
    assert found.macs == macs
    assert found.bitops == macs * 1024
    assert found.params == sum(p.numel() for p in layer.parameters())


def test_bytes_by_hand(small):
    """8-bit edges, 3-bit inside: weights packed and rounded up, steps and everything else 4 bytes."""
    quantize_(small, policy("uniq", weights=3, activations=3))
    by_name = {layer.name: layer.size_bytes for layer in cost(small, (1, 8, 8)).layers}
    assert by_name["0"] == 36 + 4 * 4 + 2 * 4  # 36 8-bit weights, 4 biases, 2 steps
    assert by_name["1"] == 4 * 4 * 4  # scale, shift, mean, variance of 4 channels
    assert by_name["3"] == math.ceil(144 * 3 / 8) + 4 * 4 + 2 * 4
    assert by_name["7"] == 40 + 10 * 4 + 2 * 4
    assert cost(small, (1, 8, 8)).size_bytes == sum(by_name.values())


def test_fixed_point_parameters_take_their_bits(small):
    quantize_(small, policy("faq", weights=4, activations=4))
    by_name = {layer.name: layer for layer in cost(small, (1, 8, 8)).layers}
    assert by_name["1"].size_bytes == 4 + 4 * 4 + 2 * 4 * 4 + 2 * 4  # 8-bit scale, 32-bit shift, statistics, steps
    assert by_name["3"].activation_bits == 4  # counted, though quantized at the ReLU before


def test_channel_steps_count(small):
    tensor, channel = small, nn.Sequential(*small)
    quantize_(tensor, policy("uniq", weights=2))
    one = cost(tensor, (1, 8, 8)).size_bytes
    restore_(channel)
    quantize_(
        channel,
        policy("uniq", weights=2, granularity="channel")
        .override("@first", granularity="tensor")
        .override("@last", granularity="tensor"),
    )
    assert cost(channel, (1, 8, 8)).size_bytes == one + 3 * 4


def test_learned_widths_are_counted(quantized, small):
    quantized(small, "dq", 4, 4)
    before = cost(small, (1, 8, 8)).bitops
    quantizer = small[3].weight_quantizer
    quantizer.set_state_("reach", quantizer.step.detach())  # one step: 2 bits
    assert cost(small, (1, 8, 8)).bitops < before


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    assert cost(model, (4,)).params == 32
    assert cost(model, (4,)).macs == 48


def test_a_layer_called_twice_computes_twice():
    shared = nn.Linear(4, 4, bias=False)
    assert cost(nn.Sequential(shared, shared), (4,)).macs == 32


def test_needs_no_calibration_and_leaves_the_model_alone(net):
    quantize_(net, policy("uniq", weights=2, activations=2))
    net.train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    cost(net, (1, 8, 8))
    assert net.training
    assert all(torch.equal(v, net.state_dict()[k]) or v.isnan().all() for k, v in state.items())
    assert all(not m._forward_hooks for m in net.modules())


def test_wrong_shape_is_an_error(net):
    with pytest.raises(ValueError, match=r"PreResNetCifar does not take one image of shape \(3, 8, 8\)"):
        cost(net, (3, 8, 8))


def test_prints_a_table(net):
    text = str(cost(net, (1, 8, 8)))
    assert "bit-operations" in text
    assert f"{cost(net, (1, 8, 8)).params:,}" in text


def test_counted_input_bits_are_the_policys(net):
    quantize_(net, policy("saq", weights=4, activations=4))
    assert isinstance(net.conv1.spec, LayerSpec)
    assert {layer.name: layer.activation_bits for layer in cost(net, (1, 8, 8)).layers}["conv1"] == 8


class Multiplies(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.w


def test_products_that_are_not_counted_are_named():
    found = cost(nn.Sequential(nn.Linear(4, 4), Multiplies()), (4,))
    assert found.uncounted == ("1",)
    assert (found.macs, found.params) == (16, 16 + 4 + 16)
    assert "Products inside these are not counted: 1" in str(found)
    assert cost(Multiplies(), (4,)).uncounted == ("",)
    assert "not counted: (the model itself)" in str(cost(Multiplies(), (4,)))


def test_everything_of_a_table_model_is_counted(net):
    assert cost(net, (1, 8, 8)).uncounted == ()
    assert "not counted" not in str(cost(net, (1, 8, 8)))


def test_a_model_without_parameters_costs_nothing():
    assert cost(nn.ReLU(), (3,)).bitops == cost(nn.ReLU(), (3,)).params == 0


@pytest.mark.parametrize("shape", [3, None, "3"])
def test_what_is_no_shape_is_an_error(shape, net):
    with pytest.raises(ValueError, match=r"input_shape=.*expected the shape of one image, such as \(3, 32, 32\)"):
        cost(net, shape)


@pytest.mark.parametrize("name", ["hol", "faq", "uniq", "saq", "pact"])
def test_activations_alone_are_counted_and_stated(name):
    model = models.build("resnet8", first_width=4)
    whole = cost(model, (3, 16, 16)).bitops
    quantize_(model, policy(name, activations=4))
    layers = {layer.name: layer for layer in cost(model, (3, 16, 16)).layers}
    inner = layers["layers.1.0.conv2"]
    assert (inner.weight_bits, inner.activation_bits) == (32, 4)
    assert cost(model, (3, 16, 16)).bitops < whole / 2
    assert convention(model).inner == "W32/A4"
