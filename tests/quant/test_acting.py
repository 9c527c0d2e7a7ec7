import pytest
from torch import nn

from flatbit import models
from flatbit.quant.acting import check_acting
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy, preset_names
from flatbit.quant.spec import TensorSpec
from flatbit.quant.table import quantized_layers

UNIQ = policy("uniq", weights=2, activations=2)
WEIGHTS = policy("sqwa-all", weights=2)
FAQ = policy("faq", weights=4, activations=4)
FIXED = TensorSpec(method="fixed_point", bits=8)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (UNIQ.override(nn.ReLU, weights=3), r"weights=3 of override.*ReLU.*'.*relu1'.*multiplies by no weight"),
        (UNIQ.override("*.relu1", activations=3), r"activations=3 .*relu1.*placement='output' alone"),
        (UNIQ.override("*.relu1", activation_options={"signed": False}), "activation_options=.*placement='output'"),
        (UNIQ.override("*.bn1", weights=3), "weights=3 .*bn1.*a normalization: norm="),
        (FAQ.override("*.bn1", weights=3), "weights=3 .*bn1.*a normalization: norm="),
        (UNIQ.override("*.bn1", activations=3), "activations=3 .*a normalization"),
        (FAQ.override("layers.0.0.conv2", activations=3), "activations=3 .*conv2.*was quantized where it was made"),
        (UNIQ.override("conv1", input_bits=3), "input_bits=3 .*conv1.*its own input quantizer"),
        (UNIQ.override("*.relu1", input_bits=3), "input_bits=3 .*multiplies by no weight"),
        (WEIGHTS.override("fc", activation_method="lsq"), "activation_method='lsq' .*'fc'.*activations are float"),
        (WEIGHTS.override("*.relu1", placement="output"), "placement='output' .*activations are float"),
        (UNIQ.override("fc", weights=32, granularity="channel"), "granularity='channel' .*'fc'.*weights are float"),
        (UNIQ.override("fc", weights=32, method="lsq"), "method='lsq' .*'fc'.*weights are float"),
        (UNIQ.override("fc", norm=FIXED), "norm=.*Linear has no such tensor"),
        (UNIQ.override("conv1", bias=FIXED), "bias=.*Conv2d has no such tensor"),
        (UNIQ.override("*.bn1", bias=FIXED), "bias=.*or its norm= is float"),
        (UNIQ.override("*.relu1", weights=32, activations=32), "weights=32 .*relu1"),
    ],
)  # fmt: skip
def test_a_setting_that_acts_on_none_of_its_layers_is_refused_and_nothing_is_changed(net, made, words):
    with pytest.raises(ValueError, match=words):
        quantize_(net, made)
    assert not list(quantized_layers(net))


@pytest.mark.parametrize(
    "made",
    [
        UNIQ.override("layers.0.*", weights=3, activations=3, granularity="channel"),
        UNIQ.override("*.relu1", placement="output", activations=3),
        UNIQ.override("@shortcut", weights=4),
        UNIQ.override("fc", weights=32, activations=32),
        UNIQ.override("fc", weights=2),
        UNIQ.override("fc", bias=FIXED),
        UNIQ.override("*.bn1", norm=FIXED, bias=FIXED),
        FAQ.override("*.bn1", norm=None),
        FAQ.override("*.relu1", activations=2),
        FAQ.override("*.relu1", weights=32, activations=32),
        FAQ.override("fc", activations=2),
        FAQ.override("layers.1.0.conv2", placement="input", activations=3),
        WEIGHTS.override("fc", activations=3, activation_method="lsq", activation_options={"signed": False}),
        policy("saq", weights=2, activations=2).override("@first", input_bits=4),
    ],
)
def test_a_setting_that_acts_on_one_of_its_layers_is_taken(net, made):
    check_acting(made, net)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("bits", [(4, 4), (4, 32), (32, 4), (1, 1)])
@pytest.mark.parametrize("model", ["preresnet8", "fcdnn", "mobilenet_v2_cifar"])
def test_a_conventions_own_rules_may_find_nothing_to_act_on(name, bits, model):
    try:
        made = policy(name, weights=bits[0], activations=bits[1])
    except ValueError:  # a method that has no such width
        return
    check_acting(made, models.build(model))


def test_modules_that_the_table_does_not_know_can_only_be_left_in_float():
    model = nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 4), nn.Linear(4, 4))
    check_acting(UNIQ.override("1", weights=32, activations=32), model)
    with pytest.raises(ValueError, match=r"granularity='channel' .*'1'.*Bilinear is not in the table"):
        check_acting(UNIQ.override("1", granularity="channel"), model)
