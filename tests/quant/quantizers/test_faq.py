import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.quant.quantizers.faq import FaqActivation, FaqWeight, next_power_of_two


def step_of(quantizer, w):
    return float(quantizer.step_of(w, quantizer.code_range(w)))


def is_power_of_two(value: float) -> bool:
    return math.frexp(value)[0] == 0.5


@given(st.floats(1e-30, 1e30))
def test_next_power_of_two_is_exact(x):
    x = float(torch.tensor(x))
    found = float(next_power_of_two(torch.tensor(x)))
    assert is_power_of_two(found)
    assert found / 2 < x <= found


@pytest.mark.parametrize("exponent", range(-40, 41))
def test_powers_of_two_stay(exponent):
    assert float(next_power_of_two(torch.tensor(2.0**exponent))) == 2.0**exponent


WIDTHS = {2: 2.523929, 3: 3.276999, 4: 4.12, 5: 6.561449, 6: 7.942918, 7: 9.398419, 8: 10.915750}


@pytest.mark.parametrize(("bits", "c"), WIDTHS.items())
def test_weight_formula(bits, c, site, x64):
    step = 2.0 ** math.ceil(math.log2(c * float(x64.std()) / (2**bits - 1)))
    k = 2 ** (bits - 1) - 1
    expected = (x64 / step).round().clamp(-k, k) * step
    assert torch.equal(FaqWeight(bits, site()).double()(x64), expected)


@pytest.mark.parametrize(("bits", "c"), WIDTHS.items())
def test_constants(bits, c, site):
    unit = FaqWeight(bits, site()).unit_steps[bits - 2]
    assert unit * (2**bits - 1) == pytest.approx(c, rel=1e-6)
    assert FaqWeight(bits, site(), clip_is_half_width=True).unit_steps[bits - 2] == 2 * unit


def test_constant_at_four_bits_is_the_papers(site):
    """Total width 4.12 std over 15 steps: std 1 gives 0.2747, so 2^-1; std 0.9 gives 0.247, so 2^-2."""
    w = torch.randn(10_000)
    w = (w - w.mean()) / w.std()
    assert step_of(FaqWeight(4, site()), w) == 0.5
    assert step_of(FaqWeight(4, site()), 0.9 * w) == 0.25
    assert step_of(FaqWeight(4, site(), clip_is_half_width=True), 0.9 * w) == 0.5


def test_step_follows_the_weight_and_has_no_state(site):
    quantizer = FaqWeight(4, site())
    assert list(quantizer.parameters()) == []
    w = torch.randn(1000)
    assert step_of(quantizer, 4 * w) == 4 * step_of(quantizer, w)
    assert step_of(quantizer, 0.8 * w / w.std()) == 0.25  # at 3 bits 0.5
    quantizer.bits.mul_(1 - 1e-4)  # what an exponential average makes of them
    assert step_of(quantizer, 0.8 * w / w.std()) == 0.25


def test_weight_gradient_is_unmasked(site, gradients, x64, g64):
    assert torch.equal(gradients(FaqWeight(4, site()).double(), x64, g64)["x"], g64)


def test_ties_go_to_the_even_code(site):
    quantizer = FaqActivation(4, site("input"))
    quantizer.set_state_("step", torch.tensor(1.0))
    assert quantizer(torch.tensor([0.5, 1.5, 2.5, 14.5, 99.0, -3.0])).tolist() == [0, 2, 2, 14, 15, 0]


@pytest.mark.parametrize(("bits", "percent"), [(2, 99.9), (4, 99.9), (8, 99.99)])
def test_activation_range_is_the_next_power_of_two_of_the_percentile(bits, percent, site):
    quantizer = FaqActivation(bits, site("input"))
    batches = [torch.rand(20_000) * top for top in (1.0, 5.0, 3.0)]
    for batch in batches:
        quantizer.observe_(batch)
    top = max(float(batch.sort().values[math.ceil(percent / 100 * 20_000) - 1]) for batch in batches)
    assert float(quantizer.step) == 2.0 ** (math.ceil(math.log2(top)) - bits)


@pytest.mark.parametrize(("bits", "y_max"), [(1, 1), (4, 1), (5, 128), (8, 128)])
def test_one_value_in_2000_counts_above_four_bits_alone(bits, y_max, site):
    quantizer = FaqActivation(bits, site("input"))
    quantizer.observe_(torch.tensor([1.0] * 1999 + [100.0]).repeat(10))
    assert float(quantizer.step) == y_max * 0.5**bits


def test_signed_ranges_count_magnitudes_and_unsigned_ones_values(site):
    x = torch.linspace(-7.0, 0.9, 101)
    signed, unsigned = FaqActivation(2, site("input"), signed=True), FaqActivation(2, site("input"), signed=False)
    for quantizer in (signed, unsigned):
        quantizer.observe_(x)
    assert float(signed.step) == 8 / 2
    assert float(unsigned.step) == 1 / 4


def test_zeros_say_nothing_of_the_range(site):
    quantizer = FaqActivation(4, site("input"))
    quantizer.observe_(torch.zeros(10))
    assert not quantizer.calibrated
    assert 0 < step_of(FaqWeight(4, site()), torch.zeros(10)) < 1e-8


def test_signed_activation_range_spans_both_sides(site):
    quantizer = FaqActivation(8, site("input"))
    quantizer.observe_(torch.linspace(-2.6, 2.6, 10_001))
    grid = quantizer.grid(torch.zeros(1))
    assert (grid.low, grid.high, float(grid.step)) == (-127, 127, 4 / 128)


def test_activation_gradient_is_masked_and_the_step_fixed(site, gradients, x64, g64):
    quantizer = FaqActivation(2, site("input")).double()
    quantizer.set_state_("step", torch.tensor(0.5, dtype=torch.float64))
    found = gradients(quantizer, x64, g64)
    assert torch.equal(found["x"], g64 * ((x64 > 0) & (x64 < 1.5)))
    assert set(found) == {"x"}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_control_without_calibration(bits, site):
    quantizer = FaqActivation(bits, site("input"), calibrate=False)
    quantizer.observe_(torch.rand(10) * 1000)
    reach = 2 ** (bits / 2) - 1
    assert float(quantizer.step) == 2.0 ** math.ceil(math.log2(reach / (2**bits - 1)))


@pytest.mark.parametrize("bits", [1, 9])
def test_weights_take_2_to_8_bits(bits, site):
    with pytest.raises(ValueError, match=rf"takes 2 to 8 bits, got {bits}"):
        FaqWeight(bits, site())


def test_one_bit_symmetric_is_refused(site):
    with pytest.raises(ValueError, match="single level 0"):
        FaqWeight(1, site())
    with pytest.raises(ValueError, match="single level 0"):
        FaqActivation(1, site("input")).observe_(torch.tensor([-1.0, 1.0]))
