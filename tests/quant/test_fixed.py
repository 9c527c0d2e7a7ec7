"""Fixed grids round as the quantizers that they are taken from, and nothing trains or moves them."""

import pytest
import torch
from torch import nn

from flatbit.quant.fixed import Coding, FixedGrid, fixed_value, has_fixed_grids, refuse_training_
from flatbit.quant.rounding import fake_quantize
from flatbit.quant.site import Site
from flatbit.quant.spec import TensorSpec

SITE = Site(layer="conv", role="input")
SIGNED = Coding(bits=3, offset=0.5, low=-4, high=3, ties="even_from_low")


def fixed(coding=SIGNED, step=0.25, bits=3):
    quantizer = FixedGrid(TensorSpec(method="uniq", bits=bits), SITE, coding)
    quantizer.step.fill_(step)
    return quantizer


@pytest.mark.parametrize("ties", ["even", "even_from_low", "away"])
@pytest.mark.parametrize(("offset", "low", "high"), [(0.5, -4, 3), (0.0, -3, 3), (0.0, 0, 7), (0.3, 0, 7)])
def test_it_rounds_to_its_grid(ties, offset, low, high):
    if ties == "away" and offset not in (0.0, 0.5):
        pytest.skip("the only quantizers that round so have levels on both sides of zero")
    quantizer = fixed(Coding(bits=3, offset=offset, low=low, high=high, ties=ties))
    x = torch.linspace(-2, 2, 129)
    inside = x.clamp(0.25 * (low + offset), 0.25 * (high + offset))
    assert torch.equal(
        quantizer(x), fake_quantize(inside, quantizer.step, offset, low, high, surrogate="identity", ties=ties)
    )
    assert quantizer.grid(x).contains(quantizer(x))
    assert torch.equal(quantizer.grid(x).value(quantizer.codes(x)), quantizer(x))


def test_its_bits_are_those_in_use_beside_those_stated():
    quantizer = fixed(bits=4)
    assert (quantizer.stated_bits, quantizer.bit_width(), float(quantizer.width())) == (4, 3, 3)


def test_it_is_uncalibrated_until_its_step_is_loaded():
    quantizer = FixedGrid(TensorSpec(method="uniq", bits=3), SITE, SIGNED)
    with pytest.raises(RuntimeError, match="input of layer 'conv'"):
        quantizer(torch.ones(2))
    quantizer.load_state_dict(fixed().state_dict())
    assert quantizer.calibrated


@pytest.mark.parametrize(
    "move",
    [
        lambda q: q.observe_(torch.ones(3)),
        lambda q: q.reset_(),
        lambda q: q.assign_(2),
        lambda q: q.check_assignable(3),
    ],
)
def test_nothing_moves_it(move):
    quantizer = fixed()
    with pytest.raises(ValueError, match=r"input of layer 'conv' cannot .*packed file, whose grids are fixed"):
        move(quantizer)
    assert float(quantizer.step) == 0.25


def test_its_backward_says_why_there_is_none():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"cannot be trained: .*flatbit\.save"):
        fixed()(x).sum().backward()
    value = fixed_value(x, torch.tensor(0.25), 0.5, -4, 3, surrogate="identity", ties="even")
    with pytest.raises(RuntimeError, match="cannot be trained"):
        value.sum().backward()


def test_a_model_with_fixed_grids_is_not_called_in_training_mode():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[1].input_quantizer = fixed()
    refuse_training_(model)
    before = model[0].running_mean.clone()
    with pytest.raises(RuntimeError, match=r"Sequential is in training mode and cannot be trained, call model\.eval"):
        model(torch.randn(4, 2))
    assert torch.equal(model[0].running_mean, before)  # refused before anything was computed
    model.eval()(torch.randn(4, 2))
    assert has_fixed_grids(model)
    del model[1].input_quantizer
    model.train()(torch.randn(4, 2))  # float again


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0}, {"bits": 33}, {"bits": 2}, {"low": 4}, {"low": -(2**40)}, {"offset": float("nan")},
        {"offset": 1e10}, {"shape": (2, 0)}, {"shape": (-1,)},
    ],
)  # fmt: skip
def test_codings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Coding(**{"bits": 3, "offset": 0.5, "low": -4, "high": 3} | wrong)
