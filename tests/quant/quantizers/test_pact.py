import pytest
import torch

from flatbit.quant.quantizers.pact import PactActivation


def with_clip(bits, site, clip, **options):
    quantizer = PactActivation(bits, site("input"), **options).double()
    quantizer.set_state_("clip", torch.tensor(clip, dtype=torch.float64))
    return quantizer


@pytest.mark.parametrize("bits", range(1, 9))
def test_forward_and_gradients(bits, site, gradients, x64, g64):
    a, m = 1.2, 2**bits - 1
    quantizer = with_clip(bits, site, a)
    expected = (x64.clamp(0, a) * m / a).round() * a / m
    assert torch.allclose(quantizer(x64), expected, atol=1e-12)
    found = gradients(quantizer, x64, g64)
    assert torch.allclose(found["x"], g64 * ((x64 > 0) & (x64 < a)))
    assert float(found["clip"]) == pytest.approx(float((g64 * (x64 >= a)).sum()))  # no rounding residual


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_form_of_hols_residuals(bits, site, gradients, x64, g64):
    a, k = 1.2, 2 ** (bits - 1) - 1
    quantizer = with_clip(bits, site, a, signed=True)
    assert torch.allclose(quantizer(x64), (x64.clamp(-a, a) * k / a).round() * a / k, atol=1e-12)
    found = gradients(quantizer, x64, g64)
    assert float(found["clip"]) == pytest.approx(float((g64 * x64.sign() * (x64.abs() >= a)).sum()))


def test_start_is_the_largest_percentile_of_the_batches(site):
    quantizer = PactActivation(2, site("input"))
    assert quantizer.calibration_batches == 5
    first, second = torch.arange(1.0, 10_001.0), torch.arange(1.0, 5_001.0)
    quantizer.observe_(second)
    quantizer.observe_(first)
    quantizer.observe_(second)
    assert float(quantizer.clip.detach()) == 9990.0


def test_signed_ranges_start_from_magnitudes_and_unsigned_ones_from_values(site):
    x = torch.cat([-torch.arange(1.0, 1001.0), torch.arange(1.0, 1001.0) / 10])
    signed, unsigned = PactActivation(2, site("input"), signed=True), PactActivation(2, site("input"), signed=False)
    for quantizer in (signed, unsigned):
        quantizer.observe_(x)
    assert float(signed.clip.detach()) == 998.0  # the 1998th of 2000 magnitudes
    assert float(unsigned.clip.detach()) == pytest.approx(99.8)


@pytest.mark.parametrize("clip", [10.0, 1.0])
def test_fixed_starts_of_the_papers(clip, site):
    quantizer = PactActivation(4, site("input"), clip=clip)
    quantizer.observe_(torch.rand(10) * 50)
    assert float(quantizer.clip.detach()) == clip


def test_signed_at_one_bit_is_refused_with_the_mend(site):
    with pytest.raises(ValueError, match=r"layer 'layer'.*single level 0.*uniq"):
        PactActivation(1, site("input")).observe_(torch.tensor([-1.0, 1.0]))
    with pytest.raises(ValueError, match="single level 0"):
        PactActivation(1, site("input"), signed=True)


def test_clip_decays_with_the_weights():
    assert PactActivation.decays


@pytest.mark.parametrize("clip", ["x", 0.0, -1.0, True])
def test_a_clip_that_is_no_positive_number_is_refused(clip, site):
    with pytest.raises(ValueError, match=r"clip=.*expected a positive number"):
        PactActivation(2, site("input"), clip=clip)
