"""The conventions of the methods specification, section 2, row by row."""

import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy, preset, preset_names
from flatbit.quant.spec import FLOAT_BITS


def resolved(name, weights, activations, model=None, **options):
    model = model or models.build("preresnet8", in_channels=3)
    return policy(name, weights=weights, activations=activations, **options).resolve(model)


def bits(spec):
    return (spec.weight.bits if spec.weight else 32, spec.input.bits if spec.input else 32)


INNER, SHORTCUT = "layers.1.0.conv2", "layers.1.0.shortcut"


def test_sqwa_keeps_first_and_last_float_and_quantizes_weights_only():
    specs = resolved("sqwa", 2, 32)
    assert [bits(specs[n]) for n in ("conv1", INNER, SHORTCUT, "fc")] == [(32, 32), (2, 32), (2, 32), (32, 32)]
    assert specs[INNER].weight.method == "sqwa"
    assert specs[INNER].weight.granularity == "tensor"
    assert bits(resolved("sqwa-all", 2, 32)["conv1"]) == (2, 32)


def test_hol_quantizes_at_relus_and_residuals():
    specs = resolved("hol", 2, 2)
    assert [bits(specs[n]) for n in ("conv1", INNER, SHORTCUT, "fc")] == [(32, 32), (2, 32), (2, 32), (32, 32)]
    assert specs["layers.1.0.relu1"].output.method == "pact"
    assert specs["layers.1.0.residual"].output.bits == 2
    imagenet = resolved("hol-imagenet", 2, 2)
    assert imagenet["layers.1.0.residual"].output.bits == 8
    assert imagenet["layers.1.0.relu1"].output.bits == 2
    assert imagenet[INNER].weight.options == {"grid": "midrise"}
    assert resolved("hol-imagenet", 2, 32)["layers.1.0.residual"].output is None


def test_hol_synthetic_quantizes_every_matrix_and_hidden_output():
    model = models.build("fcdnn", width=8, depth=4)
    specs = resolved("hol-synthetic", 2, 2, model)
    assert all(bits(specs[n]) == (2, 32) for n in ("first.0", "hidden.0.linear", "hidden.1.linear", "last"))
    assert specs["first.1"].output.bits == specs["hidden.1.relu"].output.bits == 2
    assert "residual" not in " ".join(specs)
    residual = models.build("fcdnn", width=8, depth=4, block="residual")
    assert resolved("hol-synthetic", 2, 2, residual)["hidden.0.residual"].output is None


def test_saq_edges_8_bit_image_float_but_counted_as_8():
    specs = resolved("saq", 3, 3)
    assert [bits(specs[n]) for n in ("conv1", INNER, SHORTCUT, "fc")] == [(8, 32), (3, 3), (3, 3), (8, 8)]
    assert specs["conv1"].input_bits == 8


def test_uniq_multi_bit_and_one_bit():
    specs = resolved("uniq", 2, 2)
    assert [bits(specs[n]) for n in ("conv1", INNER, SHORTCUT, "fc")] == [(8, 8), (2, 2), (2, 2), (8, 8)]
    binary = resolved("uniq", 1, 1)
    assert [bits(binary[n]) for n in ("conv1", INNER, SHORTCUT, "fc")] == [(32, 32), (1, 1), (32, 32), (32, 32)]


def test_uniq_imagenet_is_per_channel_but_for_the_edges():
    specs = resolved("uniq-imagenet", 4, 4)
    assert [specs[n].weight.granularity for n in ("conv1", INNER, SHORTCUT, "fc")] == [
        "tensor",
        "channel",
        "channel",
        "tensor",
    ]


@pytest.mark.parametrize(("w", "edge"), [(4, 8), (8, 8), (2, 8)])
def test_faq_edges_8_bit_with_own_inputs_and_fixed_point_norms(w, edge):
    specs = resolved("faq", w, w)
    assert bits(specs["conv1"]) == bits(specs["fc"]) == (edge, edge)
    assert bits(specs[INNER]) == (w, 32)
    assert specs["layers.1.0.relu1"].output.bits == w
    assert specs["layers.1.0.residual"].output is None  # the addend of the sum stays 32 bit
    norm = specs["layers.1.0.bn1"]
    assert (norm.weight.bits, norm.weight.options["exponent"]) == (8, -4)
    assert (norm.bias.bits, norm.bias.options["exponent"]) == (32, -16)
    assert specs["fc"].bias.bits == 32
    assert specs[INNER].bias is None  # no bias there


@pytest.mark.parametrize("name", ["dorefa", "pact", "xnor"])
def test_old_baselines_keep_edges_float(name):
    specs = resolved(name, 1, 1)
    assert bits(specs["conv1"]) == bits(specs["fc"]) == (32, 32)
    assert bits(specs[INNER]) == (1, 1)


def test_pact_is_pact_activations_with_dorefa_weights():
    spec = resolved("pact", 4, 4)[INNER]
    assert (spec.weight.method, spec.input.method) == ("dorefa", "pact")


def test_xnor_scales_each_filter():
    assert resolved("xnor", 1, 32)[INNER].weight.granularity == "channel"


@pytest.mark.parametrize("name", ["lsq", "lsq_plus", "dq"])
def test_a_method_without_a_preset_gets_8_bit_edges(name):
    specs = resolved(name, 3, 3)
    assert bits(specs["conv1"]) == bits(specs["fc"]) == (8, 8)
    assert specs[INNER].weight.method == name


@pytest.mark.parametrize("name", ["uniq", "saq", "faq", "lsq", "hol"])
def test_float_sides_stay_float_at_the_edges_too(name):
    if name != "faq":
        specs = resolved(name, 32, 2)
        assert all(spec.weight is None for spec in specs.values())
    specs = resolved(name, 2, 32)
    assert all(spec.input is None and spec.output is None for spec in specs.values())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_quantizes_and_runs(name):
    one_bit = name == "xnor"
    activations = FLOAT_BITS if name.startswith("sqwa") else 1 if one_bit else 4
    model = models.build("preresnet8", in_channels=1, first_width=4, activation="hardtanh" if one_bit else "relu")
    quantize_(model, policy(name, weights=1 if one_bit else 4, activations=activations))
    calibrate_(model, [torch.randn(8, 1, 8, 8)] * 2)
    loss = model(torch.randn(4, 1, 8, 8)).square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert preset(name).__doc__ is None or preset(name).__doc__


def test_mixing_methods_of_two_papers():
    spec = resolved("sqwa", 2, 4, activation_method="uniq")[INNER]
    assert (spec.weight.method, spec.input.method, spec.input.bits) == ("sqwa", "uniq", 4)


def test_first_and_last_activations_have_the_most_bits_of_the_method_that_quantizes_them():
    specs = resolved("lsq", 4, 1, activation_method="xnor")
    assert [(specs[name].weight.bits, specs[name].input.bits) for name in ("conv1", "fc")] == [(8, 1)] * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: policy("unique", weights=2), "unknown policy 'unique': did you mean uniq"),
        (lambda: policy("uniq"), "weights and activations are both float"),
        (lambda: policy("uniq", weights=16), "weights=16: expected 1 to 8 bits, or 32"),
        (
            lambda: policy("faq", weights=1),
            r"'faq' quantizes weights to 2-8 bits, got 1 \(the symmetric grid has the single level 0\)",
        ),
        (
            lambda: policy("sqwa", weights=2, activations=2),
            "'sqwa' does not quantize activations: give activation_method, one of",
        ),
        (
            lambda: policy("uniq", weights=2, activations=2, activation_method="xnor"),
            "'xnor' quantizes activations to 1 bit, got",
        ),
        (lambda: policy("fixed_point", weights=2), "unknown policy 'fixed_point'"),
    ],
)
def test_mistakes_are_named_with_the_mend(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_policy_remembers_its_preset_name():
    assert policy("uniq-imagenet", weights=2).name == "uniq-imagenet"
    assert policy("lsq", weights=2).name == "lsq"


@pytest.mark.parametrize("name", ["hol", "hol-imagenet"])
def test_hol_works_on_models_without_residuals(name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    assert quantize_(model, policy(name, weights=2, activations=2)).quantized


def test_pacts_clips_start_at_ten_and_an_option_replaces_them():
    assert policy("pact", activations=4).base.activation_options == {"clip": 10.0}
    assert policy("pact", activations=4, activation_options={"clip": 1.0}).base.activation_options == {"clip": 1.0}


def test_a_placement_that_is_asked_for_replaces_the_presets():
    at_inputs = resolved("hol", 2, 2, placement="input")
    assert at_inputs[INNER].input.method == "pact"
    assert all(spec.output is None for spec in at_inputs.values())
    assert at_inputs["conv1"].input is None  # float still
    at_outputs = resolved("saq", 2, 2, placement="output")
    assert at_outputs[INNER].input is None
    assert at_outputs["layers.1.0.relu1"].output.method == "saq"
    assert at_outputs["layers.1.0.residual"].output is None
    assert at_outputs["fc"].input is None  # the activation before it is quantized, at the policy's bits
    assert bits(at_outputs["fc"]) == (8, 32)


def test_the_presets_own_placement_may_be_named():
    assert policy("hol", weights=2, activations=2, placement="output") == policy("hol", weights=2, activations=2)
    assert policy("saq", weights=2, activations=2, placement="input") == policy("saq", weights=2, activations=2)


def test_asking_for_outputs_at_inputs_and_back_leaves_no_rule_of_placement():
    made = policy("faq", weights=4, activations=4, placement="input")
    assert [rule.changes for rule in made.rules] == [{"weights": 8, "activations": 8}] * 2
    assert bits(made.resolve(models.build("preresnet8"))["conv1"]) == (8, 8)
    assert policy("hol-synthetic", weights=2, activations=2, placement="input").rules == ()


def test_norms_and_biases_are_settings_of_each_layer():
    made = policy("faq", weights=4, activations=4).override("layers.1.0.bn1", norm=None).override("fc", bias=None)
    specs = made.resolve(models.build("preresnet8"))
    assert specs["layers.1.0.bn1"].tensors == {}
    assert specs["layers.1.0.bn2"].weight.bits == 8
    assert specs["fc"].bias is None
    uniq = (
        policy("uniq", weights=2).override("fc", bias=specs["layers.1.0.bn2"].bias).resolve(models.build("preresnet8"))
    )
    assert uniq["fc"].bias.bits == 32
    assert uniq["layers.1.0.bn2"].tensors == {}


@pytest.mark.parametrize("name", preset_names())
def test_conventions_say_in_words_what_they_keep(name):
    assert preset(name).__doc__


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"weights": 2, "activation_options": {"x": 4}},
            r"activation_options=\{'x': 4\} cannot act, for activations are",
        ),
        ({"weights": 2, "activation_method": "pact"}, "activation_method='pact' cannot act, for activations are float"),
        ({"weights": 2, "placement": "output"}, "placement='output' cannot act, for activations are float"),
        ({"activations": 2, "weight_options": {"start": 1.0}}, "weight_options=.* cannot act, for weights are float"),
        ({"activations": 2, "granularity": "channel"}, "granularity='channel' cannot act, for weights are float"),
        ({"weights": 2, "granularity": "chanel"}, "takes one step per tensor or channel, got 'chanel'"),
        ({"weights": 2, "weight_options": {"strat": 1}}, "no option 'strat': did you mean start"),
        ({"weights": 2, "weight_options": "start"}, "weight_options='start': expected a mapping"),
        ({"activations": 2, "activation_options": {"start": 0}}, "start=0: expected 'optimal' or"),
        ({"activations": 2, "activation_options": ["signed"]}, "activation_options=.*: expected a mapping"),
    ],
)
def test_settings_that_cannot_act_or_be_are_refused_where_they_are_given(given, words):
    with pytest.raises(ValueError, match=words):
        policy("uniq", **given)


def test_a_name_is_a_word():
    with pytest.raises(ValueError, match="unknown policy 3: known: "):
        policy(3, weights=2)
