import math

import pytest
import torch

from flatbit.quant.quantizers.dq import DqActivation, DqWeight


def with_range(quantizer, step, reach):
    quantizer = quantizer.double()
    quantizer.set_state_("step", torch.tensor(step, dtype=torch.float64))
    quantizer.set_state_("reach", torch.tensor(reach, dtype=torch.float64))
    return quantizer


@pytest.mark.parametrize("d", [0.3, 0.2])
def test_step_is_the_nearest_power_of_two_and_the_range_a_multiple(d, site):
    weight, signed = DqWeight(4, site()), DqActivation(4, site("input"), signed=True)
    for quantizer, low in ((weight, -4), (signed, -4), (DqActivation(4, site("input")), 0)):
        grid = with_range(quantizer, d, 0.9).grid(torch.zeros(1).double())
        assert (float(grid.step), grid.offset, grid.low, grid.high) == (0.25, 0, low, 4)  # 0.9 / 0.25 = 3.6: q' = 4 d'


def test_a_range_below_half_a_step_is_one_step(site):
    quantizer = with_range(DqWeight(4, site()), 0.5, 0.1)
    assert quantizer(torch.tensor([-3.0, 0.2, 3.0]).double()).tolist() == [-0.5, 0.0, 0.5]


def test_forward_and_gradients_of_parametrization_u3(site, gradients, x64, g64):
    d, q = 0.25, 1.0
    quantizer = with_range(DqWeight(4, site()), 0.3, 0.9)
    expected = x64.sign() * d * (x64.abs().clamp(max=q) / d + 0.5).floor()
    assert torch.allclose(quantizer(x64), expected)
    inside = x64.abs() <= q
    found = gradients(quantizer, x64, g64)
    assert torch.equal(found["x"], g64 * inside)
    assert float(found["step"]) == pytest.approx(float((g64 * inside * (expected - x64) / d).sum()))
    assert float(found["reach"]) == pytest.approx(float((g64 * x64.sign() * ~inside).sum()))


def test_unsigned_activations(site, gradients, x64, g64):
    quantizer = with_range(DqActivation(4, site("input")), 0.125, 0.625)
    expected = 0.125 * (x64.clamp(0, 0.625) / 0.125 + 0.5).floor()
    assert torch.allclose(quantizer(x64), expected)
    found, inside = gradients(quantizer, x64, g64), (x64 >= 0) & (x64 <= 0.625)
    assert float(found["step"]) == pytest.approx(float((g64 * inside * (expected - x64) / 0.125).sum()))
    assert float(found["reach"]) == pytest.approx(float((g64 * (x64 > 0.625)).sum()))


@pytest.mark.parametrize("bits", [2, 8])
def test_signed_activations_are_quantized_as_weights(bits, site, gradients, x64, g64):
    weight = with_range(DqWeight(bits, site()), 0.3, 0.9)
    activation = with_range(DqActivation(bits, site("input"), signed=True), 0.3, 0.9)
    assert torch.equal(activation(x64), weight(x64))
    expected = gradients(weight, x64, g64)
    assert all(torch.equal(g, expected[name]) for name, g in gradients(activation, x64, g64).items())


def test_the_widths_gradients_are_those_of_its_logarithm(site):
    """``log2(q'/d' + 1)`` with d' = 1/4, q' = 1, straight through both roundings."""
    slope = 1 / (math.log(2) * (1.0 / 0.25 + 1))
    for quantizer in (DqWeight(4, site()), DqActivation(4, site("input"))):
        with_range(quantizer, 0.3, 0.9).width().backward()
        assert float(quantizer.reach.grad) == pytest.approx(slope / 0.25)
        assert float(quantizer.step.grad) == pytest.approx(-slope * 1.0 / 0.25**2)


@pytest.mark.parametrize(("levels", "bits"), [(1, 2), (3, 3), (4, 4), (7, 4), (8, 5), (127, 8)])
def test_bit_width_of_weights_follows_from_the_range(levels, bits, site):
    quantizer = with_range(DqWeight(4, site()), 0.5, 0.5 * levels)
    assert float(quantizer.width().detach()) == quantizer.bit_width() == bits
    assert bits == math.ceil(math.log2(levels + 1) + 1)


@pytest.mark.parametrize(("levels", "bits"), [(1, 1), (3, 2), (4, 3), (255, 8)])
def test_bit_width_of_activations(levels, bits, site):
    for signed in (False, True) if levels < 128 else (False,):
        quantizer = with_range(DqActivation(4, site("input"), signed=signed), 0.5, 0.5 * levels)
        assert float(quantizer.width().detach()) == quantizer.bit_width() == bits + signed


def test_never_more_than_eight_bits(site):
    weight, signed = DqWeight(4, site()), DqActivation(4, site("input"), signed=True)
    for quantizer, high in ((weight, 127), (signed, 127), (DqActivation(4, site("input")), 255)):
        with_range(quantizer, 2.0**-10, 1e6)
        assert quantizer.grid(torch.zeros(1).double()).high == high
        assert float(quantizer.width().detach()) == quantizer.bit_width() == 8


@pytest.mark.parametrize("bits", [1, 9])
def test_weights_take_2_to_8_bits(bits, site):
    with pytest.raises(ValueError, match=rf"takes 2 to 8 bits, got {bits}"):
        DqWeight(bits, site())


def test_starts_of_saqs_appendix(site):
    w = torch.tensor([-0.9, 0.2])
    quantizer = DqWeight(4, site())
    quantizer.observe_(w)
    assert float(quantizer.step.detach()) == 2.0 ** math.ceil(math.log2(0.9 / 7))
    assert float(quantizer.reach.detach()) == 7 * float(quantizer.step.detach())
    for x, levels in ((torch.rand(5), 15), (torch.randn(50), 7)):
        activation = DqActivation(4, site("input"))
        activation.observe_(x)
        assert float(activation.step.detach()) == 0.125
        assert float(activation.reach.detach()) == 0.125 * levels
    assert DqWeight(4, site()).bit_width() == 4  # not calibrated yet: what it was asked for
    assert DqActivation(3, site("input")).bit_width() == 3


def test_training_can_change_the_width(site):
    """A loss that wants small values only shrinks the range below the next bit."""
    quantizer = DqWeight(4, site())
    w = torch.randn(256, generator=torch.Generator().manual_seed(0))
    quantizer.observe_(w)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        quantizer(10 * w).square().mean().backward()
        optimizer.step()
    assert quantizer.bit_width() < 4
