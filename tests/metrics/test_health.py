import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.metrics.health import (
    MENDS,
    Finding,
    constant_output,
    examine,
    explain,
    range_use,
    suspects,
)
from flatbit.quant.quantizer import Site
from flatbit.quant.quantizers import METHODS

from ..no_waits import waits_of

IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
CONV = "layers.1.0.conv2"


def net(method="uniq", weights=2, activations=2, **options):
    model = fb.models.build("preresnet8", in_channels=1, first_width=4)
    fb.quantize_(model, fb.policy(method, weights=weights, activations=activations, **options))
    fb.calibrate_(model, [IMAGES], 1)
    return model.eval()


def found(model, x=IMAGES):
    return [(finding.layer, finding.problem) for finding in examine(model, x)]


def conv(model):
    return model.get_submodule(CONV)


def scaled(name, factor, **settings):
    """A net with one piece of state multiplied."""
    model = net(**settings)
    tensor = model.get_parameter(f"{CONV}.{name}")
    tensor.data *= factor
    return model


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ["uniq", "uniq-imagenet", "lsq_plus", "hol", "faq"])
def test_calibrated_nets_are_healthy(method, bits):
    if bits == 1 and not method.startswith("uniq"):
        pytest.skip("the method has no 1-bit form")
    model = net(method, bits, bits)
    assert examine(model, IMAGES) == []
    assert not constant_output(model, IMAGES)
    assert suspects(model) == []


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "factor", "problem"),
    [
        ("input_quantizer.step", 1e6, "dead clip"),
        ("input_quantizer.step", 1e-6, "step collapsed"),
        ("input_quantizer.step", 0.0, "step collapsed"),
        ("weight_quantizer.step", 1e-6, "step collapsed"),
        ("weight_quantizer.step", 1e-20, "step collapsed"),
    ],
)
def test_a_range_that_does_not_fit_is_found_at_its_place(name, factor, problem, bits):
    role = name.partition("_")[0]
    place, said = found(scaled(name, factor, weights=bits, activations=bits))[0]
    assert (place, said) == (f"{role} of {CONV}", problem)


def test_too_wide_a_weight_grid_is_dead_without_zero_as_with_it():
    assert found(scaled("weight_quantizer.step", 1e3))[0] == (f"weight of {CONV}", "dead clip")  # levels of +-1/2 only
    model = net("sqwa", 2, 32)
    conv(model).weight_quantizer.step *= 1e3
    assert found(model)[0] == (f"weight of {CONV}", "dead clip")


def test_saturation():
    assert found(scaled("input_quantizer.step", 0.05)) == [(f"input of {CONV}", "saturated")]
    (finding,) = examine(scaled("weight_quantizer.step", 0.05), IMAGES)
    assert (finding.layer, finding.problem) == (f"weight of {CONV}", "saturated")
    assert "of values lie beyond the grid" in finding.evidence


def test_a_clip_that_decays_has_weight_decay_in_its_mend():
    said = {}
    for method in ("saq", "uniq"):
        model = net(method)
        quantizer = conv(model).weight_quantizer
        next(quantizer.parameters()).data *= 1e-6
        said[method] = examine(model, IMAGES)
    assert any("lower weight_decay" in f.mend for f in said["saq"] if f.problem == "step collapsed")
    assert not any("weight_decay" in f.mend for f in said["uniq"])


def test_an_input_that_is_always_the_same_is_constant():
    model = net()
    norm = model.layers[1][0].bn2
    norm.weight.data.zero_()
    norm.bias.data.fill_(-1.0)  # and then a ReLU
    (finding,) = examine(model, IMAGES)
    assert (finding.layer, finding.problem) == (f"input of {CONV}", "constant")
    assert "every value is 0" in finding.evidence


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        (f"{CONV}.weight", f"weight of {CONV}"),
        (f"{CONV}.weight_quantizer.step", f"weight of {CONV}"),
        (f"{CONV}.input_quantizer.step", f"input of {CONV}"),
        ("layers.1.0.bn2.running_var", "running_var of layers.1.0.bn2"),
        ("layers.1.0.bn2.weight", "weight of layers.1.0.bn2"),
    ],
)
def test_the_first_that_is_not_finite_is_named_alone(name, place, value):
    model = net()
    model.state_dict()[name].flatten()[0] = value
    (finding,) = examine(model, IMAGES)
    assert (finding.layer, finding.problem) == (place, "not finite")
    assert "1 of " in finding.evidence
    assert [(f.layer, f.problem) for f in suspects(model)] == [(place, "not finite")]
    assert constant_output(model, IMAGES)


def test_first_means_in_run_order():
    model = net()
    for name in ("fc", "layers.2.0.conv1", "layers.0.0.conv2"):
        model.get_submodule(name).weight.data.fill_(float("nan"))
    assert found(model) == [("weight of layers.0.0.conv2", "not finite")]
    assert [f.layer for f in suspects(model)][-1] == "weight of fc"


def test_images_that_are_not_finite_are_the_data_s_fault():
    x = IMAGES.clone()
    x[3, 0, 2, 2] = float("nan")
    (finding,) = examine(net(), x)
    assert (finding.layer, finding.problem, finding.evidence) == ("images", "not finite", "1 of 1,024 NaN or infinite")
    assert "in the data" in finding.mend


def test_an_overflow_of_finite_weights_is_named_where_it_happens():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    model[1].weight.data.fill_(3e38)
    (finding,) = examine(model, IMAGES.abs())
    assert (finding.layer, finding.problem) == ("output of 1", "not finite")
    assert "of finite inputs and weights" in finding.evidence


def test_so_is_one_between_modules():
    class Add(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(64, 3)

        def forward(self, x):
            x = x.flatten(1).sign() * 3e38
            return self.last(x + x)

    assert found(Add()) == [("input of last", "not finite")]


@pytest.mark.parametrize("factor", [1e5, 1e30])
def test_explosion_is_named_once_where_it_begins(factor):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    assert found(model) == []
    model[1].weight.data *= factor
    assert found(model) == [("output of 1", "exploding")]


@pytest.mark.parametrize("scale", [1e-3, 255.0, 1e5])
def test_images_of_any_size_explode_nothing_by_themselves(scale):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    assert found(model, IMAGES * scale) == []


def test_a_model_that_fails_is_a_finding_and_no_error():
    model = net()
    (finding,) = examine(model, torch.randn(2, 5, 8, 8))
    assert (finding.layer, finding.problem) == ("the model", "does not run")
    assert "channels" in finding.evidence


def test_an_uncalibrated_quantizer_is_not_finite_at_its_place():
    model = fb.models.build("preresnet8", in_channels=1, first_width=4)
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    (finding,) = examine(model, IMAGES)
    assert (finding.layer, finding.problem) == ("input of conv1", "not finite")
    assert "its step" in finding.evidence
    assert "flatbit.calibrate_" in finding.mend


def test_a_step_per_channel_is_judged_channel_by_channel_and_pruned_channels_rest():
    model = net("uniq-imagenet")
    assert conv(model).weight_quantizer.step.numel() > 1
    conv(model).weight.data[2] = 0
    conv(model).weight_quantizer.step.data[2] = 1e-8
    assert found(model) == []
    conv(model).weight_quantizer.step.data[1] = 1e-8
    assert found(model) == [(f"weight of {CONV}", "step collapsed")]


def test_gradients_that_are_not_finite_are_suspect():
    model = net()
    model(IMAGES).sum().backward()
    assert suspects(model) == []
    conv(model).weight.grad[0, 0] = float("nan")
    (finding,) = suspects(model)
    assert (finding.layer, finding.problem) == (f"weight of {CONV}", "gradient not finite")
    assert finding.evidence == "9 of 576 NaN or infinite"
    conv(model).weight_quantizer.step.grad.fill_(float("inf"))
    assert suspects(model)[1].evidence == "its step: 1 of 1 NaN or infinite"


def test_the_same_answer_to_every_image_is_collapse():
    model = net()
    assert not constant_output(model, IMAGES)
    assert not constant_output(model, IMAGES[:1].expand(5, -1, -1, -1))
    model.bn.weight.data.zero_()
    assert constant_output(model, IMAGES)


def test_segmentation_collapses_where_no_image_differs():
    model = nn.Conv2d(1, 3, 1)
    assert not constant_output(model, IMAGES)
    model.weight.data.zero_()
    assert constant_output(model, IMAGES)


def test_the_model_is_left_as_it_was():
    model = net()
    model.train()
    model.layers[0].eval()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    examine(model, IMAGES), constant_output(model, IMAGES), examine(model, IMAGES[:, :, :3, 0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_the_gravest_finding_explains_whatever_comes_first():
    findings = [Finding(layer=p, problem=p, evidence="e", mend="m") for p in ("saturated", "dead clip", "not finite")]
    assert explain(findings) == "not finite: not finite (e): m (and 2 more findings)"
    assert explain(findings[:1]) == "saturated: saturated (e): m"
    assert explain([]) == ""
    assert all("\n" not in mend for mend in MENDS.values())


def weight_quantizer(method, bits, step):
    quantizer = METHODS.get(method).weights(bits, Site(layer="fc", role="weight", kind="linear"))
    quantizer.set_state_("step", torch.as_tensor(step))
    return quantizer


def test_range_use_by_hand():
    use = range_use(weight_quantizer("uniq", 2, 1.0), torch.tensor([-4.0, 0.1, 1.0, 1.9, 2.1]))  # levels +-1/2, +-3/2
    assert use.step == 1
    assert use.span == pytest.approx(3 / math.sqrt((16 + 0.01 + 1 + 3.61 + 4.41) / 5))
    assert use.filled == pytest.approx(4 / 1.5)
    assert use.overload == pytest.approx(2 / 5)
    assert (use.one_level, use.constant) == (False, None)


def test_range_use_of_a_gaussian_at_its_best_binary_step():
    step = 2 * math.sqrt(2 / math.pi)  # 2 E|x|
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    use = range_use(weight_quantizer("uniq", 1, step), x)
    assert use.span == pytest.approx(step, rel=0.01)
    assert use.overload == pytest.approx(math.erfc(step / math.sqrt(2)), abs=0.003)  # P(|x| > D), 11 %


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(1, 8), st.floats(0.05, 3))
def test_range_use_does_not_depend_on_the_unit(unit, bits, step):
    x = torch.randn(64, generator=torch.Generator().manual_seed(1))
    use, other = (range_use(weight_quantizer("uniq", bits, step * u), x * u) for u in (1.0, unit))
    assert (other.span, other.filled) == (pytest.approx(use.span, rel=1e-4), pytest.approx(use.filled, rel=1e-4))
    assert other.overload == pytest.approx(use.overload, abs=1 / 64)


def test_what_dq_clips_counts_as_beyond_its_grid():
    quantizer = METHODS.get("dq").weights(4, Site(layer="fc", role="weight", kind="linear"))
    x = torch.linspace(-1, 1, 101)
    quantizer.observe_(x)
    assert range_use(quantizer, x).overload == 0
    assert range_use(quantizer, 10 * x).overload > 0.8


def test_a_sound_net_is_told_by_one_look():
    model = net()
    model(IMAGES).sum().backward()
    assert len(waits_of(lambda: suspects(model))) == 1
    model.fc.weight.grad[0, 0] = float("inf")
    assert len(waits_of(lambda: suspects(model))) > 1


def test_a_net_that_is_not_sound_is_constant_by_one_look():
    model = net()
    model.fc.weight.data[0, 0] = float("nan")
    assert len(waits_of(lambda: constant_output(model, IMAGES))) == 1
