from dataclasses import dataclass

import pytest
import torch

import flatbit as fb
from flatbit import plain
from flatbit.train.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, make_optimizer, parameter_groups

X = torch.randn(8, 3, 8, 8)
DECAY = {"saq": True, "pact": True, "uniq": False, "lsq": False, "lsq_plus": False, "dq": False}


def quantized(method):
    model = fb.models.build("preresnet8", first_width=4)
    fb.quantize_(model, fb.policy(method, weights=4, activations=4))
    fb.calibrate_(model, [(X,)])
    return model


def names_of(model, parameters):
    ids = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_a_float_model_is_one_group_that_decays():
    model = fb.models.build("preresnet8")
    (group,) = parameter_groups(model, 5e-4)
    assert group["weight_decay"] == 5e-4
    assert names_of(model, group["params"]) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("method", DECAY)
def test_every_parameter_is_in_one_group_once(method):
    model = quantized(method)
    ids = [id(p) for group in parameter_groups(model, 1e-4) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("method", [method for method, decays in DECAY.items() if not decays])
def test_learned_steps_do_not_decay(method):
    model = quantized(method)
    decayed, exempt = parameter_groups(model, 1e-4)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (1e-4, 0.0)
    assert names_of(model, exempt["params"]) == {name for name, _ in model.named_parameters() if "quantizer" in name}


@pytest.mark.parametrize("method", [method for method, decays in DECAY.items() if decays])
def test_clips_of_saq_and_pact_decay_with_the_weights(method):
    model = quantized(method)
    (group,) = parameter_groups(model, 1e-4)
    assert any("quantizer" in name for name in names_of(model, group["params"]))
    assert group["weight_decay"] == 1e-4


def test_frozen_weights_are_left_out():
    model = fb.models.build("fcdnn")
    model.last.requires_grad_(False)
    (group,) = parameter_groups(model, 0.0)
    assert not {name for name in names_of(model, group["params"]) if name.startswith("last")}


def test_a_step_without_gradient_moves_weights_and_no_step():
    model = quantized("uniq")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, SGD(), lr=0.1, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] if "quantizer" in name else before[name] * 0.95
        torch.testing.assert_close(p.detach(), expected, msg=name)


def test_sgd_has_the_settings_it_is_given():
    optimizer = make_optimizer(fb.models.build("fcdnn"), SGD(momentum=0.8, nesterov=True), lr=0.3, weight_decay=0.1)
    assert isinstance(optimizer, torch.optim.SGD)
    settings = optimizer.param_groups[0]
    assert {k: settings[k] for k in ("lr", "weight_decay", "momentum", "nesterov")} == {
        "lr": 0.3, "weight_decay": 0.1, "momentum": 0.8, "nesterov": True,
    }  # fmt: skip


def test_momentum_is_nine_tenths_unless_said():
    group = make_optimizer(fb.models.build("fcdnn"), SGD(), lr=0.1).param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 0.0)


def test_adam():
    optimizer = make_optimizer(quantized("uniq"), Adam(), lr=0.004, weight_decay=0.1)
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["lr"] for group in optimizer.param_groups] == [0.004, 0.004]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_learned_steps_of_both_optimizers_are_in_groups_of_their_own():
    for optimizer in (SGD(), Adam()):
        groups = make_optimizer(quantized("lsq"), optimizer, lr=0.1, weight_decay=0.2).param_groups
        assert [group["weight_decay"] for group in groups] == [0.2, 0.0]


@pytest.mark.parametrize("momentum", [-0.1, 1, 1.0, 2, "0.9", None, True, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"momentum=.*: expected 0 or more, below 1"):
        SGD(momentum=momentum)


def test_nesterov_without_momentum_cannot_act():
    with pytest.raises(ValueError, match="nesterov=True with momentum=0 cannot act: give it a momentum, or leave it"):
        SGD(momentum=0, nesterov=True)
    assert SGD(momentum=0) == SGD(momentum=0.0)


def test_they_are_found_by_name_and_written_by_it():
    assert OPTIMIZERS.names() == ["adam", "sgd"]
    assert plain.from_plain(Optimizer, {"kind": "sgd", "momentum": 0.5}) == SGD(momentum=0.5)
    assert plain.from_plain(Optimizer, "adam") == Adam()
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamw': did you mean adam\?"):
        plain.from_plain(Optimizer, "adamw")


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """One of the user's own."""

    alpha: float = 0.9

    def make(self, groups, lr):
        return torch.optim.RMSprop(groups, lr=lr, alpha=self.alpha)


def test_one_of_ones_own_gets_the_groups():
    made = make_optimizer(quantized("uniq"), RMSProp(alpha=0.7), lr=0.1, weight_decay=0.2)
    assert isinstance(made, torch.optim.RMSprop)
    assert [(group["alpha"], group["weight_decay"]) for group in made.param_groups] == [(0.7, 0.2), (0.7, 0.0)]


class NeedsAClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, NeedsAClosure, type("Mine", (torch.optim.LBFGS,), {})])
def test_an_optimizer_whose_step_needs_a_closure_is_refused(kind):
    class Settings(Optimizer):
        def make(self, groups, lr):
            return kind([p for group in groups for p in group["params"]], lr=lr)

    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=rf"{kind.__name__} evaluates the loss anew.*the training loop steps once"):
        make_optimizer(model, Settings(), lr=0.1)
    with pytest.raises(ValueError, match=rf"{kind.__name__} .*SharpnessAware steps once"):
        fb.train.SharpnessAware(kind(model.parameters(), lr=0.1), model, method="sam")


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Rprop", "ASGD", "Adadelta"])
def test_all_others_are_bases(kind):
    model = torch.nn.Linear(2, 2)
    base = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(base, 1)  # which wraps the step
    assert fb.train.SharpnessAware(base, model, method="sam").base is base


def test_rows_of_candidates_that_are_not_in_use_stay(small, images):
    fb.quantize_(small, fb.policy("saq", weights=2, activations=2), candidates=(2, 4))
    fb.calibrate_(small, [images])
    optimizer = make_optimizer(small, SGD(), lr=0.1, weight_decay=0.1)
    clips = [small[3].weight_quantizer.clip, small[3].input_quantizer.clip]
    before = [clip.detach().clone() for clip in clips]
    small(images).square().sum().backward()
    optimizer.step()
    for clip, was in zip(clips, before, strict=True):
        assert clip[1] == was[1]
        assert clip[0] != was[0]
