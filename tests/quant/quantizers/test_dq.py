import math

import pytest
import torch

from flatbit.quant.quantizers.dq import DqActivation, DqWeight


def with_range(quantizer, step, reach):
    quantizer = quantizer.double()
    quantizer.set_state_("step", torch.tensor(step, dtype=torch.float64))
    quantizer.set_state_("reach", torch.tensor(reach, dtype=torch.float64))
    return quantizer


def test_step_is_the_nearest_power_of_two_and_the_range_a_multiple(site):
    quantizer = with_range(DqWeight(4, site()), 0.3, 0.9)
    grid = quantizer.grid(torch.zeros(1).double())
    assert (float(grid.step), grid.low, grid.high) == (0.25, -4, 4)  # 0.9 / 0.25 = 3.6, so q' = 4 d'


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
    found = gradients(quantizer, x64, g64)
    assert float(found["reach"]) == pytest.approx(float((g64 * (x64 > 0.625)).sum()))


@pytest.mark.parametrize(("levels", "bits"), [(1, 2), (3, 3), (4, 4), (7, 4), (8, 5), (127, 8)])
def test_bit_width_of_weights_follows_from_the_range(levels, bits, site):
    assert with_range(DqWeight(4, site()), 0.5, 0.5 * levels).bit_width() == bits
    assert bits == math.ceil(math.log2(levels + 1) + 1)


@pytest.mark.parametrize(("levels", "bits"), [(1, 1), (3, 2), (4, 3), (255, 8)])
def test_bit_width_of_activations(levels, bits, site):
    assert with_range(DqActivation(4, site("input")), 0.5, 0.5 * levels).bit_width() == bits
    if levels < 128:
        assert with_range(DqActivation(4, site("input"), signed=True), 0.5, 0.5 * levels).bit_width() == bits + 1


def test_never_more_than_eight_bits(site):
    assert with_range(DqWeight(4, site()), 2.0**-10, 1e6).bit_width() == 8
    assert with_range(DqActivation(4, site("input")), 2.0**-10, 1e6).bit_width() == 8


def test_starts_of_saqs_appendix(site):
    w = torch.tensor([0.9, -0.2])
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
