import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.quant.table import quantizers_of
from flatbit.train.losses import cost as costs
from flatbit.train.losses.cost import CostPenalty, mbitops
from flatbit.train.losses.labels import cross_entropy

X = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2))
SHAPE = (1, 8, 8)


def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 3),
    )  # fmt: skip


def dq(weights=4, activations=4, first=None, **options):
    """A calibrated net whose bits are learned; those of the first layer may be others."""
    torch.manual_seed(0)
    model, policy = net(), fb.policy("dq", weights=weights, activations=activations, **options)
    fb.quantize_(model, policy.override("@first", **first) if first else policy)
    fb.calibrate_(model, [(X,)])
    return model


def set_(quantizer, step, highest):
    """A step of 2^step and a range of so many steps: values at which nothing is rounded."""
    with torch.no_grad():
        quantizer.step.fill_(2.0**step)
        quantizer.reach.fill_(highest * 2.0**step)


# The value


@pytest.mark.parametrize("weights", [2, 3, 4, 8])
@pytest.mark.parametrize("activations", [2, 4, 8, 32])
def test_it_is_the_cost_of_the_net_as_it_stands(weights, activations):
    model = dq(weights, activations)
    assert float(mbitops(model, SHAPE).detach()) * 1e6 == pytest.approx(fb.cost(model, SHAPE).bitops, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-6, 2), st.integers(1, 300)), min_size=6, max_size=6))
def test_it_follows_the_bits_wherever_training_takes_them(places):
    model = dq()
    for (_, quantizer), (step, highest) in zip(quantizers_of(model), places, strict=False):
        set_(quantizer, step, highest)
    assert float(mbitops(model, SHAPE).detach()) * 1e6 == pytest.approx(fb.cost(model, SHAPE).bitops, rel=1e-6)


FIXED = {"method": "uniq", "weights": 8, "activation_method": "uniq"}


@pytest.mark.parametrize(
    "options",
    [{"first": {"weights": 32, "activations": 32}}, {"first": FIXED}, {"placement": "output"}],
    ids=["float", "fixed", "at the output"],
)
def test_whatever_is_not_learned_counts_as_it_does_there(options):
    model = dq(**options)
    assert float(mbitops(model, SHAPE).detach()) * 1e6 == pytest.approx(fb.cost(model, SHAPE).bitops, rel=1e-6)


def test_it_is_the_sum_over_layers_of_macs_times_both_widths():
    model = dq(3, 5)
    macs = {layer.name: layer.macs for layer in fb.cost(model, SHAPE).layers}
    total = 0.0
    for name in ("0", "3", "6"):
        layer = model.get_submodule(name)
        total += macs[name] * layer.weight_quantizer.bit_width() * layer.input_quantizer.bit_width()
    assert float(mbitops(model, SHAPE).detach()) == pytest.approx(total / 1e6)


# The gradient


@pytest.mark.parametrize("name", ["3.weight_quantizer", "3.input_quantizer", "6.weight_quantizer"])
@pytest.mark.parametrize("parameter", ["step", "reach"])
@pytest.mark.parametrize(("step", "highest"), [(-3, 7), (-2, 5), (0, 1), (-5, 100)])
def test_its_gradient_is_that_of_the_unrounded_width(name, parameter, step, highest):
    """Finite differences of ``log2(q/d + 1)`` where no rounding moves q or d, times what the width multiplies."""
    model = dq().double()
    quantizer = model.get_submodule(name)
    set_(quantizer, step, highest)
    model.zero_grad()
    mbitops(model, SHAPE).backward()
    layer = model.get_submodule(name.partition(".")[0])
    other = layer.input_quantizer if "weight" in name else layer.weight_quantizer
    macs = {layer.name: layer.macs for layer in fb.cost(model, SHAPE).layers}[name.partition(".")[0]]

    def width(change):
        values = {"step": 2.0**step, "reach": highest * 2.0**step}
        values[parameter] += change
        return torch.log2(torch.tensor(values["reach"] / values["step"] + 1, dtype=torch.double)).item()

    h = 1e-6 * 2.0**step
    slope = (width(h) - width(-h)) / (2 * h)
    expected = macs * other.bit_width() * slope / 1e6
    assert float(getattr(quantizer, parameter).grad) == pytest.approx(expected, rel=1e-4)


def test_a_wider_range_costs_more_and_a_wider_step_less():
    model = dq()
    mbitops(model, SHAPE).backward()
    for _, quantizer in quantizers_of(model):
        assert quantizer.reach.grad > 0 > quantizer.step.grad
    assert all(layer.weight.grad is None for layer in (model[0], model[3], model[6]))


# The term


def test_the_penalty_is_the_squared_excess_in_millions():
    model = dq()
    now = float(mbitops(model, SHAPE).detach())
    term = CostPenalty(target_mbitops=0.25 * now)
    torch.testing.assert_close(term(model, X, None, None).item(), (0.75 * now) ** 2)


@pytest.mark.parametrize("share", [1.01, 5.0])
def test_below_the_target_it_is_zero_and_pulls_at_nothing(share):
    model = dq()
    value = CostPenalty(target_mbitops=share * float(mbitops(model, SHAPE).detach()))(model, X, None, None)
    value.backward()
    assert value == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_batch_size_does_not_matter_and_the_size_of_images_does():
    model = net()
    model[5], model[6] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(6, 3)
    fb.quantize_(model, fb.policy("dq", weights=4, activations=4))
    fb.calibrate_(model, [(X,)])
    term = CostPenalty(target_mbitops=1e-6)
    one, many, large = (term(model, x, None, None) for x in (X[:1], X, torch.zeros(2, 1, 16, 16)))
    assert one == many < large


def test_the_model_is_as_before_and_no_random_number_is_drawn():
    model = dq().train()
    model[1].eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    CostPenalty(target_mbitops=1e-3)(model, X, None, None)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert all(quantizer.enabled for _, quantizer in quantizers_of(model))
    assert torch.equal(torch.get_rng_state(), random)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = nn.functional.linear(x, self.qkv.weight).chunk(3, -1)
        return self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)


def test_what_is_in_float_counts_too():
    """Products of activations, and a weight that is read past its quantizer."""
    model = nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 3))
    fb.quantize_(model, fb.policy("dq", weights=4, activations=4).override("1.qkv", weights=32, activations=32))
    fb.calibrate_(model, [(torch.randn(2, 5, 8),)])
    assert float(mbitops(model, (5, 8)).detach()) * 1e6 == pytest.approx(fb.cost(model, (5, 8)).bitops, rel=1e-6)


def test_layers_are_counted_once_for_each_model_and_shape(monkeypatch):
    calls, counted = [], costs.cost
    monkeypatch.setattr(costs, "cost", lambda *args: calls.append(args[1]) or counted(*args))
    model = dq()
    for shape in (SHAPE, SHAPE, (1, 8, 8)):
        mbitops(model, shape)
    assert calls == [SHAPE]
    known = len(costs._costs)
    del model
    gc.collect()
    assert len(costs._costs) == known - 1  # and are forgotten with it


def test_training_with_it_lowers_the_cost_to_its_target():
    model = dq(6, 6)
    labels = torch.arange(16) % 3
    start = fb.cost(model, SHAPE).bitops
    target = 0.4 * start / 1e6
    term, optimizer = CostPenalty(target_mbitops=target), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        logits = model(X)
        (cross_entropy(logits, labels) + 100 * term(model, X, labels, logits) / target**2).backward()
        optimizer.step()
    assert fb.cost(model, SHAPE).bitops < 0.5 * start
    assert cross_entropy(model(X), labels) < 1.0


# What it refuses


@pytest.mark.parametrize("policy", [None, "uniq", "sqwa"])
def test_a_net_that_learns_no_bits_is_refused(policy):
    model = net()
    if policy is not None:
        fb.quantize_(model, fb.policy(policy, weights=2))
        fb.calibrate_(model, [(X,)])
    message = r"cost_penalty of Sequential: expected a method that learns its bits \(dq\), got none: leave the term out"
    for act in (CostPenalty(target_mbitops=1).check, lambda model: mbitops(model, SHAPE)):
        with pytest.raises(ValueError, match=message):
            act(model)


def test_bits_that_are_kept_fixed_are_not_learned():
    model = dq().requires_grad_(False)
    with pytest.raises(ValueError, match="expected a method that learns its bits"):
        mbitops(model, SHAPE)


def test_the_check_needs_no_weights_and_no_calibration():
    model = net().to("meta")
    specs = fb.quant.convert.resolved_specs(model, fb.policy("dq", weights=4, activations=4), strict=True)[0]
    fb.quant.convert.apply_specs_(model, specs)
    CostPenalty(target_mbitops=1).check(model)


def test_without_gradients_it_is_the_number_all_the_same():
    model = dq()
    with torch.no_grad():
        assert float(mbitops(model, SHAPE)) * 1e6 == pytest.approx(fb.cost(model, SHAPE).bitops, rel=1e-6)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("key", ["target_mbitops", "weight"])
def test_numbers_that_cannot_be_are_refused(key, wrong):
    with pytest.raises(ValueError, match=rf"cost_penalty: {key}=.*: expected a positive number"):
        CostPenalty(**{"target_mbitops": 1.0} | {key: wrong})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_counted_in_float32_in_a_model_of_half_precision(dtype):
    model = dq()
    expected = float(mbitops(model, SHAPE).detach())
    assert float(mbitops(model.to(dtype), SHAPE).detach()) == pytest.approx(expected, rel=1e-6)
