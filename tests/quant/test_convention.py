import json
from dataclasses import replace

import pytest
from torch import nn

from flatbit import models, plain
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy


def of(name, weights, activations, **options):
    model = models.build("preresnet8", in_channels=1, first_width=4)
    quantize_(model, policy(name, weights=weights, activations=activations, **options))
    return convention(model)


def test_uniq():
    found = of("uniq", 2, 2)
    assert (found.policy, found.first, found.last, found.shortcut, found.inner) == (
        "uniq",
        "W8/A8",
        "W8/A8",
        "W2/A2",
        "W2/A2",
    )
    assert (found.image, found.weight_step, found.activations) == ("8 bit", "tensor", "input")
    assert (found.batch_norm, found.bias) == ("float", "float")


def test_uniq_at_one_bit_leaves_edges_and_shortcuts_float():
    found = of("uniq", 1, 1)
    assert (found.first, found.last, found.shortcut, found.inner, found.image) == (
        "float",
        "float",
        "float",
        "W1/A1",
        "float",
    )


def test_saq_image_is_float_but_counted():
    found = of("saq", 4, 4)
    assert (found.first, found.image, found.last) == ("W8/A8", "float", "W8/A8")


def test_faq_fixed_point():
    found = of("faq", 4, 4)
    assert (found.batch_norm, found.bias, found.activations) == ("fixed point", "fixed point", "output")
    assert found.inner == "W4/A4"


def test_weight_only_and_channel():
    found = of("uniq", 3, 32, granularity="channel")
    assert (found.inner, found.activations, found.weight_step) == ("W3/A32", "none", "channel")


def test_mixed_bits_are_all_listed():
    model = models.build("preresnet8", in_channels=1, first_width=4)
    quantize_(model, policy("uniq", weights=2, activations=2).override("layers.2.*", weights=4))
    assert convention(model).inner == "W2/A2, W4/A2"


def test_float_model():
    found = convention(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert found.policy == "float"
    assert str(found) == "float"
    assert convention(nn.ReLU()).first == "none"


def test_is_plain_data():
    found = of("uniq", 2, 2)
    written = json.loads(json.dumps(plain.to_plain(found)))
    assert written["inner"] == "W2/A2"
    assert plain.from_plain(type(found), written) == found


@pytest.mark.parametrize("words", ["uniq: W2/A2", "first W8/A8", "image 8 bit", "batch norm float"])
def test_reads_as_a_sentence(words):
    assert words in str(of("uniq", 2, 2))


def test_learned_widths_are_those_in_use(small, quantized):
    quantized(small, "dq", 4, 4)
    assert convention(small).inner == "W4/A4"
    for quantizer in (small[3].weight_quantizer, small[3].input_quantizer, small[0].input_quantizer):
        quantizer.set_state_("reach", 3 * quantizer.step.detach())
    assert convention(small).inner == "W3/A2"
    assert convention(small).image == "3 bit"


@pytest.mark.parametrize(
    ("name", "positive", "real"),
    [
        ("uniq", False, True),
        ("uniq", True, False),
        ("lsq", False, False),
        ("lsq_plus", False, True),
        ("faq", False, False),
    ],
)
def test_padding_that_has_no_code_is_told(small, images, name, positive, real):
    quantize_(small, policy(name, weights=4, activations=4))
    assert convention(small).padding is None  # nothing is known yet
    calibrate_(small, [images.abs() if positive else images])
    assert convention(small).padding == ("real zero" if real else None)
    assert ("padding stays a real zero" in str(convention(small))) == real


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 3),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(1, 2, 3, padding="valid"),
        nn.ConvTranspose2d(1, 2, 3, padding=1),  # there padding cuts
    ],
)
def test_without_zero_padding_there_is_nothing_to_tell(images, layer):
    model = nn.Sequential(layer)
    quantize_(model, policy("uniq", weights=4, activations=4))
    calibrate_(model, [images])
    assert convention(model).padding is None


def test_the_bits_of_a_label_are_one_short_word():
    four = of("uniq", 4, 4)
    assert four.bits == "W4/A4"
    assert replace(four, inner="W2/A3, W3/A3, W6/A5").bits == "mixed W2-6/A3-5"
    assert convention(nn.Sequential(nn.Linear(4, 2))).bits == "W32/A32"


def test_float_edges_are_those_of_a_quantized_model():
    assert of("uniq", 1, 1).has_float_edges
    assert not of("uniq", 2, 2).has_float_edges
    assert not convention(nn.Sequential(nn.Linear(4, 2))).has_float_edges


def test_nets_that_differ_in_bits_alone():
    one, two, four = (of("uniq", bits, bits) for bits in (1, 2, 4))
    assert two.differs_in_bits_alone(four)  # shortcuts have the inner layers' bits
    assert not two.differs_in_bits_alone(one)  # float edges
    for part in ("first", "shortcut", "image", "weight_step", "activations", "batch_norm", "bias", "policy"):
        assert not two.differs_in_bits_alone(replace(four, **{part: "another"})), part
    whole = [replace(net, first=net.inner, image=f"{bits} bit") for bits, net in ((2, two), (4, four))]
    assert whole[0].differs_in_bits_alone(whole[1])
    assert not two.differs_in_bits_alone(whole[1])
