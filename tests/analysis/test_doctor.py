import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.analysis.doctor import JUMPING, OSCILLATING, diagnose
from flatbit.quant.table import quantizers_of
from flatbit.train.optimizers import SGD, Adam

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(3))
BATCHES = [(IMAGES[:16], torch.arange(16) % 10), (IMAGES[16:], torch.arange(16) % 10)]


def net(method="uniq", weights=2, activations=2, **options):
    model = fb.models.build("preresnet8", in_channels=1, first_width=4)
    fb.quantize_(model, fb.policy(method, weights=weights, activations=activations, **options))
    fb.calibrate_(model, [x for x, _ in BATCHES], 2)
    return model.eval()


def problems(diagnosis):
    return {(finding.layer, finding.problem) for finding in diagnosis.findings} - {("weight of 0", "constant")}


class Regression(nn.Sequential):
    """Two logits whose cross-entropy with label 0 is |output - target|^2 / 2 + 1.

    The gradient at w^q is then w^q - target: what Nagel et al. call the toy regression.
    """

    target = 0.0

    def forward(self, x):
        loss = (super().forward(x) - self.target).square().sum() / 2 + 1
        logit = loss + torch.log1p(-torch.exp(-loss))
        return torch.stack([torch.zeros_like(logit), logit]).expand(len(x), 2)


def toy(weight, target, bits=2):
    """One linear layer, all its weights the same, whose output on the unit matrix is its quantized weight."""
    model = Regression(nn.Linear(4, 4, bias=False))
    model.target = target
    fb.quantize_(model, fb.policy("sqwa-all", weights=bits))
    layer = model[0]
    layer.weight.data.normal_()
    fb.calibrate_(model, [torch.eye(4)])
    layer.weight_quantizer.step.data.fill_(1.0)
    layer.weight.data.fill_(weight)
    return model


PLAIN = SGD(momentum=0.0)
UNIT = [(torch.eye(4), torch.zeros(4, dtype=torch.long))]


def test_weights_at_a_threshold_oscillate():
    done = diagnose(toy(0.49, 0.3), UNIT, lr=0.1, optimizer=PLAIN)
    assert problems(done) == {("weight of 0", "oscillating")}
    assert (done.end["weight of 0"].oscillating, done.end["weight of 0"].changed) == (1, 1)
    (said,) = [finding for finding in done.findings if finding.problem == "oscillating"]
    assert "100% of weights flip to and fro" in said.evidence
    assert "lr 0.1" in said.evidence
    assert "SQWA" in said.mend


def test_on_a_fine_grid_it_does_no_harm():
    for bits, expected in ((4, {("weight of 0", "oscillating")}), (5, set())):
        done = diagnose(toy(0.49, 0.3, bits), UNIT, lr=0.1, optimizer=PLAIN)
        assert problems(done) == expected
        assert done.end["weight of 0"].oscillating == 1


def test_nor_do_a_few_weights():
    for moving, expected in ((9, False), (10, True)):
        model = toy(0.0, 0.0)
        model[0].weight.data.flatten()[:moving] = 0.49
        model.target = torch.where(model[0].weight.T > 0, 0.3, 0.0).detach()
        done = diagnose(model, UNIT, lr=0.1, optimizer=PLAIN)
        assert (("weight of 0", "oscillating") in problems(done)) == expected
        assert done.end["weight of 0"].oscillating == moving / 16


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.01, 0.2))
def test_the_toy_regression_oscillates_wherever_its_target_is(target, lr):
    """From 1/2, w rises by lr t at level 0 and falls by lr (1 - t) at level 1: to and fro within 1/min(t, 1-t) + 2."""
    done = diagnose(toy(0.5 - 1e-4, target), UNIT, lr=lr, optimizer=PLAIN)
    assert done.end["weight of 0"].oscillating == 1


def test_weights_on_their_way_do_not_oscillate():
    done = diagnose(toy(0.0, 1.0), UNIT, lr=0.1, optimizer=PLAIN)
    assert problems(done) == set()
    assert (done.end["weight of 0"].oscillating, done.end["weight of 0"].changed) == (0, 1)
    assert diagnose(toy(0.0, 0.0), UNIT, lr=0.1, optimizer=PLAIN).end["weight of 0"].changed == 0


def test_nor_do_those_that_pass_level_after_level():
    done = diagnose(toy(0.0, 5.0, bits=4), UNIT, lr=0.1, optimizer=PLAIN)
    assert (done.end["weight of 0"].oscillating, done.end["weight of 0"].changed) == (0, 1)


def test_oscillation_is_judged_at_the_last_lr():
    model = toy(0.45, 0.3)
    still = diagnose(model, UNIT, lr=0.1, last_lr=1e-4, optimizer=PLAIN)
    assert problems(still) == set()
    assert still.peak["weight of 0"].oscillating == 1
    assert still.end["weight of 0"].oscillating == 0
    moving = diagnose(model, UNIT, lr=1e-4, last_lr=0.1, optimizer=PLAIN)
    assert problems(moving) == {("weight of 0", "oscillating")}


def gradient_of_step(model):
    model.train()
    x, y = BATCHES[0]
    torch.nn.functional.cross_entropy(model(x), y).backward()
    model.eval()
    return {q.site.layer: q.step for _, q in quantizers_of(model) if q.site.role == "input"}


def test_one_update_of_sgd_changes_a_step_by_lr_times_its_gradient():
    model = net()
    done = diagnose(model, BATCHES, lr=0.3, optimizer=PLAIN, updates=1)
    for layer, step in gradient_of_step(model).items():
        expected = float(0.3 * step.grad.abs() / step.detach().abs())
        assert done.peak[f"input of {layer}"].jump == pytest.approx(expected, rel=1e-3)


def test_the_first_update_of_adam_changes_a_step_by_lr():
    model = net()
    done = diagnose(model, BATCHES, lr=1e-3, optimizer=Adam(), updates=1)
    for layer, step in gradient_of_step(model).items():
        assert done.peak[f"input of {layer}"].jump == pytest.approx(float(1e-3 / step.detach().abs()), rel=1e-3)


def test_an_lr_that_is_too_high_for_a_step_is_found_at_its_place():
    model = net()
    layer = model.layers[1][0].conv2
    smallest = min(float(q.step.detach().min()) for _, q in quantizers_of(model))
    lr = 0.05 * smallest
    assert diagnose(model, BATCHES, lr=lr, last_lr=0.0, optimizer=Adam(), updates=5).findings == ()
    layer.input_quantizer.step.data *= 0.2
    lr = float(layer.input_quantizer.step.detach()) * 1.5 * JUMPING
    done = diagnose(model, BATCHES, lr=lr, last_lr=0.0, optimizer=Adam(), updates=1)
    assert ("input of layers.1.0.conv2", "lr too high for the step") in problems(done)
    (finding,) = [f for f in done.findings if f.layer == "input of layers.1.0.conv2"]
    assert "one update changes it by up to 15% at lr" in finding.evidence


def test_a_sign_that_flips_is_found_and_the_gradient_scale_is_its_mend():
    options = {"weight_options": {"gradient_scale": False}, "activation_options": {"gradient_scale": False}}
    for changes, mend in ((options, "gradient_scale=True, or lower the lr"), ({}, "lower the lr")):
        done = diagnose(net(**changes), BATCHES, lr=10.0, last_lr=0.0, optimizer=Adam(), updates=1)
        jumps = [finding for finding in done.findings if finding.problem == "lr too high for the step"]
        assert jumps
        assert all(finding.mend.startswith(mend) for finding in jumps)
        assert any("its sign flips 1 times" in finding.evidence for finding in jumps)


def test_a_probe_that_diverges_says_so_and_ends():
    done = diagnose(net(), BATCHES, lr=1e30, last_lr=0.0)
    (finding,) = [finding for finding in done.findings if finding.problem == "lr too high"]
    assert "updates at lr 1e+30" in finding.evidence


@pytest.mark.parametrize("method", ["uniq", "uniq-imagenet", "saq", "hol", "faq", "lsq", "dorefa", "dq"])
def test_every_method_at_a_gentle_lr_is_steady(method):
    model = net(method, 4, 4)
    done = diagnose(model, BATCHES, lr=1e-5, updates=6)
    assert not {problem for _, problem in problems(done)} & {"oscillating", "lr too high", "lr too high for the step"}
    assert done.num_quantizers == len(list(quantizers_of(model))) == len(done.peak)
    assert all(motion.oscillating <= OSCILLATING for motion in done.end.values())


def test_what_one_batch_shows_comes_first():
    model = net()
    model.layers[1][0].conv2.input_quantizer.step.data *= 1e6
    done = diagnose(model, BATCHES, lr=10.0, updates=2)
    assert (done.findings[0].layer, done.findings[0].problem) == ("input of layers.1.0.conv2", "dead clip")


def test_a_broken_or_float_model_is_not_probed():
    model = net()
    model.fc.weight.data[0, 0] = float("nan")
    done = diagnose(model, BATCHES, lr=0.01)
    assert (problems(done), done.peak) == ({("weight of fc", "not finite")}, {})
    done = diagnose(fb.models.build("preresnet8", in_channels=1), BATCHES, lr=0.01)
    assert (done.findings, done.num_quantizers, done.peak) == ((), 0, {})


def test_no_updates_are_no_probe_and_no_batches_an_error():
    assert diagnose(net(), BATCHES, lr=10.0, updates=0).findings == ()
    with pytest.raises(ValueError, match="the doctor got no batches"):
        diagnose(net(), [], lr=0.01)


def test_steps_that_are_fixed_stay_so_in_the_probe():
    model = net()
    for _, quantizer in quantizers_of(model):
        quantizer.requires_grad_(False)
    done = diagnose(model, BATCHES, lr=1.0, last_lr=0.0, updates=2)
    assert all(motion.jump == 0 for motion in done.peak.values())
    assert "lr too high for the step" not in {problem for _, problem in problems(done)}


def test_the_model_and_the_random_state_are_left_as_they_were():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), nn.Linear(8, 10))
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    fb.calibrate_(model, [IMAGES])
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    diagnose(model, BATCHES, lr=0.1, updates=4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_batches_that_are_used_up_by_the_first_look_are_an_error():
    with pytest.raises(ValueError, match="the doctor got no batches: the iterable is empty, or was used up before"):
        diagnose(net(), iter(BATCHES[:1]), lr=0.01, updates=3)


def test_of_batches_that_never_end_so_many_as_updates_are_read():
    assert diagnose(net(), itertools.cycle(BATCHES), lr=0.01, updates=3).num_quantizers > 0


def test_what_is_no_pair_is_named():
    with pytest.raises(ValueError, match="the doctor: the first batch is a Tensor, expected a pair of tensors"):
        diagnose(net(), [IMAGES], lr=0.01)
