import copy

import pytest
from torch import nn

from flatbit.files import load_, save
from flatbit.quant.assignment import assign_bits_
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy
from flatbit.train.averaging import requantize_


def frozen(model, *trained):
    """The model with everything frozen but the parameters of the modules named."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    return model


def what_trains(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["lsq", "uniq", "saq", "pact", "hol", "faq", "dorefa"])
@pytest.mark.parametrize("placement", ["input", "output"])
def test_frozen_layers_get_frozen_quantizers(net, images, name, placement):
    frozen(net, "fc.")
    quantize_(net, policy(name, weights=3, activations=3, placement=placement))
    calibrate_(net, [images])
    assert what_trains(net) >= {"fc.weight", "fc.bias"}
    assert all(key.startswith("fc.") for key in what_trains(net))


def test_each_quantizer_follows_what_it_quantizes(small):
    quantize_(frozen(small, "3.weight", "7.bias"), policy("lsq", weights=4, activations=4))
    assert what_trains(small) == {
        "3.weight", "3.weight_quantizer.step", "3.input_quantizer.step", "7.bias", "7.input_quantizer.step"
    }  # fmt: skip


def test_outputs_follow_the_layer_before_them_within_their_module():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1)), nn.ReLU()
    )
    quantize_(frozen(model, "1."), policy("hol", weights=4, activations=4))
    assert {key for key in what_trains(model) if "quantizer" in key} == {
        "1.0.output_quantizer.clip",
        "2.output_quantizer.clip",
    }


def test_a_shared_quantizer_trains_where_its_weight_does():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    quantize_(frozen(model, "0.weight"), policy("lsq", weights=4, activations=4).override("[0-4]", weights=4))
    assert model[0].weight_quantizer is model[2].weight_quantizer
    assert model[0].weight_quantizer.step.requires_grad
    assert model[2].input_quantizer.step.requires_grad
    assert not model[4].weight_quantizer.step.requires_grad


def test_frozen_after_a_file_and_after_requantizing_too(tmp_path, net, images, quantized):
    other = copy.deepcopy(net)
    save(quantized(net, "lsq", 4, 4), tmp_path / "m.safetensors")
    load_(frozen(other, "fc."), tmp_path / "m.safetensors")
    assert all(key.startswith("fc.") for key in what_trains(other))
    requantize_(other, policy("uniq", weights=2, activations=2))
    calibrate_(other, [images])
    assert all(key.startswith("fc.") for key in what_trains(other))
    assert what_trains(other) > {"fc.weight", "fc.bias"}
    before = what_trains(other)
    assign_bits_(other, {"layers.0.0.conv1": (4, 4)})
    assert what_trains(other) == before
