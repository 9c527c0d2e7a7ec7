"""First layer, last layer and image at bits of their own, whatever the paper's convention has there."""

import pytest

from flatbit import models
from flatbit.quant.edges import with_edges
from flatbit.quant.presets import policy


def resolved(name, weights, activations, **choices):
    made = policy(name, weights=weights, activations=activations, **choices)
    return made.resolve(models.build("preresnet8", in_channels=3))


def bits(spec):
    return (spec.weight.bits if spec.weight else 32, spec.input.bits if spec.input else 32)


INNER, SHORTCUT = "layers.1.0.conv2", "layers.1.0.shortcut"


def test_without_bits_the_policy_is_as_it_was():
    made = policy("saq", weights=2, activations=2)
    assert with_edges(made, None, None) == made


def test_one_bit_uniqs_edges_and_shortcuts():
    specs = resolved("uniq", 1, 1, first_last_bits=8, image_bits=4)
    assert [bits(specs[n]) for n in ("conv1", INNER, SHORTCUT, "fc")] == [(8, 4), (1, 1), (8, 8), (8, 8)]


def test_the_image_and_the_layers_are_told_apart():
    assert [bits(resolved("dorefa", 2, 2, first_last_bits=6)[n]) for n in ("conv1", "fc")] == [(6, 32), (6, 6)]
    assert [bits(resolved("pact", 2, 2, image_bits=6)[n]) for n in ("conv1", "fc")] == [(32, 6), (32, 32)]


def test_an_image_that_is_quantized_counts_as_it_is():
    assert resolved("saq", 2, 2)["conv1"].input_bits == 8
    assert resolved("saq", 2, 2, image_bits=4)["conv1"].input_bits == 4


def test_float_edges_of_a_convention_that_has_others():
    specs = resolved("uniq", 2, 2, first_last_bits=32, image_bits=32)
    assert [bits(specs[n]) for n in ("conv1", INNER, "fc")] == [(32, 32), (2, 2), (32, 32)]


def test_where_activations_are_quantized_at_outputs_edges_are_at_their_input():
    specs = resolved("hol", 2, 2, first_last_bits=8, image_bits=8)
    assert [bits(specs[n]) for n in ("conv1", "fc")] == [(8, 8), (8, 8)]
    assert specs["layers.1.0.relu1"].output.bits == 2


def test_a_method_that_lacks_the_width_or_the_sign_gives_way_to_uniq():
    xnor = resolved("xnor", 1, 1, first_last_bits=8, image_bits=8)["conv1"]
    assert (xnor.weight.method, xnor.input.method) == ("uniq", "uniq")
    dorefa = resolved("dorefa", 2, 2, first_last_bits=8, image_bits=8)
    assert (dorefa["conv1"].weight.method, dorefa["conv1"].input.method) == ("dorefa", "uniq")
    assert dorefa["fc"].input.method == "dorefa"
    faq = resolved("faq", 2, 2, first_last_bits=1)["fc"]
    assert (faq.weight.method, faq.input.method) == ("uniq", "faq")
    pact = resolved("pact", 2, 2, first_last_bits=8, image_bits=1)["conv1"]
    assert (pact.input.method, pact.input.options) == ("uniq", {})  # PACT's start of 10 is none of UNIQ's


def test_later_rules_of_the_users_win():
    made = policy("sqwa", weights=2, first_last_bits=8).override("fc", weights=4)
    assert bits(made.resolve(models.build("preresnet8"))["fc"]) == (4, 32)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"first_last_bits": 9}, r"policy\('uniq'\): first_last_bits=9: expected 1 to 8 bits, or 32"),
        ({"image_bits": "8"}, r"policy\('uniq'\): image_bits='8': expected 1 to 8 bits, or 32"),
        ({"first_last_bit": 8}, "unknown setting 'first_last_bit': did you mean first_last_bits"),
        ({"input_bits": 8}, "unknown setting 'input_bits'"),
    ],
)
def test_mistakes_are_named(choices, words):
    with pytest.raises(ValueError, match=words):
        policy("uniq", weights=2, activations=2, **choices)
