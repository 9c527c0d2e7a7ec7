import pytest
import torch

from flatbit.quant.quantizers.saq import SaqActivation, SaqWeight

bits_1_to_8 = pytest.mark.parametrize("bits", range(1, 9))
deviations = pytest.mark.parametrize("deviation", [0.02, 1.0, 7.0])


def with_clip(quantizer, value):
    quantizer = quantizer.double()
    quantizer.set_state_("clip", torch.tensor(value, dtype=torch.float64))
    return quantizer


def conv(x, deviation=1.5):
    """A convolution's weights of that standard deviation, with a mean of a third of it."""
    return (deviation * ((x - x.mean()) / x.std() + 1 / 3)).reshape(4, 4, 2, 2)


@bits_1_to_8
@deviations
def test_weight_forward_is_the_papers_formula_on_normalised_weights(bits, deviation, site, x64):
    w, a, s = conv(x64, deviation), 0.9, 2**bits - 1
    wt = (w - w.mean()) / w.std()
    h = ((wt / a).clamp(-1, 1) + 1) / 2
    expected = a * (2 * (h * s).round() / s - 1)
    assert torch.allclose(with_clip(SaqWeight(bits, site()), a)(w), expected, atol=1e-12)


@bits_1_to_8
@deviations
def test_weight_gradients_with_detached_statistics(bits, deviation, site, gradients, x64, g64):
    w, g, a = conv(x64, deviation), conv(g64), 0.9
    quantizer = with_clip(SaqWeight(bits, site()), a)
    found = gradients(quantizer, w, g)
    wt = (w - w.mean()) / w.std()
    inside = wt.abs() < a
    c = torch.where(inside, (quantizer(w).detach() - wt) / a, wt.sign())
    assert torch.allclose(found["x"], g * inside / w.std())
    assert float(found["clip"]) == pytest.approx(float((g * c).sum()))


def test_linear_layers_are_not_normalised(site):
    w = torch.randn(4, 8) * 0.05
    quantizer = SaqWeight(2, site(kind="linear"))
    quantizer.observe_(w)
    assert float(quantizer.clip.detach()) == pytest.approx(0.8 * float(w.abs().max()))
    assert torch.equal(quantizer.transform(w), w)


def test_convolutions_start_at_clip_one(site):
    quantizer = SaqWeight(2, site())
    quantizer.observe_(torch.randn(4, 4, 3, 3) * 0.01)
    assert float(quantizer.clip.detach()) == 1.0


@bits_1_to_8
def test_activation_forward_and_gradients(bits, site, gradients, x64, g64):
    a, s = 1.1, 2**bits - 1
    quantizer = with_clip(SaqActivation(bits, site("input")), a)
    expected = a * ((x64 / a).clamp(0, 1) * s).round() / s
    assert torch.allclose(quantizer(x64), expected, atol=1e-12)
    found = gradients(quantizer, x64, g64)
    inside = (x64 > 0) & (x64 < a)
    c = torch.where(inside, (expected - x64) / a, (x64 >= a).double())
    assert torch.allclose(found["x"], g64 * inside)
    assert float(found["clip"]) == pytest.approx(float((g64 * c).sum()))


def test_activation_starts(site):
    x = torch.rand(100) * 5
    for kind, expected in (("convolution", 1.0), ("linear", 0.8 * float(x.max()))):
        quantizer = SaqActivation(4, site("input", kind=kind))
        quantizer.observe_(x)
        assert float(quantizer.clip.detach()) == pytest.approx(expected)


def test_a_convolutions_clip_starts_at_one_whatever_the_input_but_zeros(site):
    quantizer = SaqActivation(4, site("input"))
    quantizer.observe_(torch.zeros(5))
    assert not quantizer.calibrated
    for x in (torch.full((5,), 0.1), torch.zeros(5), torch.full((5,), 9.0)):
        quantizer.observe_(x)
        assert float(quantizer.clip.detach()) == 1.0


def test_a_linear_layers_clip_starts_from_the_largest_magnitude(site):
    quantizer = SaqActivation(4, site("input", kind="linear"))
    quantizer.observe_(torch.tensor([-5.0, 1.0]))
    assert float(quantizer.clip.detach()) == pytest.approx(4.0)


def test_clips_decay_with_the_weights():
    assert SaqWeight.decays
    assert SaqActivation.decays


def test_a_convolution_of_zeros_gives_no_nan(site):
    assert bool(with_clip(SaqWeight(2, site()), 1.0)(torch.zeros(2, 2, 3, 3).double()).isfinite().all())


def test_signed_input_gets_symmetric_levels(site):
    quantizer = SaqActivation(2, site("input"))
    x = torch.tensor([-3.0, -0.2, 0.2, 3.0])
    quantizer.observe_(x)
    assert torch.allclose(quantizer(x), torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0]))


def test_sign_of_zero_is_minus_at_one_bit(site):
    quantizer = with_clip(SaqWeight(1, site(kind="linear")), 1.0)
    assert float(quantizer(torch.zeros(1, dtype=torch.float64)).detach()) == -1.0


def test_negative_clip_is_used_by_its_magnitude(site, x64):
    positive, negative = (with_clip(SaqActivation(3, site("input")), clip) for clip in (0.7, -0.7))
    assert torch.equal(positive(x64), negative(x64))
