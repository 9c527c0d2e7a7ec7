import pytest
import torch

from flatbit.quant.quantizers.lsq import LsqActivation, LsqWeight


def with_step(quantizer, value):
    quantizer = quantizer.double()
    quantizer.set_state_("step", torch.tensor(value, dtype=torch.float64))
    return quantizer


def closed_form(x, g, s, qn, qp):
    v = x / s
    inside = (v > -qn) & (v < qp)
    ds = torch.where(inside, v.round() - v, torch.where(v <= -qn, -float(qn), float(qp)))
    return s * v.clamp(-qn, qp).round(), g * inside, float((g * ds).sum())


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_the_papers(bits, site, gradients, x64, g64):
    qn, qp = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    quantizer = with_step(LsqWeight(bits, site()), 0.3)
    value, dx, ds = closed_form(x64, g64, 0.3, qn, qp)
    found = gradients(quantizer, x64, g64)
    assert torch.allclose(quantizer(x64), value)
    assert torch.allclose(found["x"], dx)
    assert float(found["step"]) == pytest.approx(ds * (64 * qp) ** -0.5)


@pytest.mark.parametrize("bits", range(1, 9))
def test_activations_scale_by_the_features_of_one_sample(bits, site, gradients, x64, g64):
    x, g, qp = x64.reshape(4, 16), g64.reshape(4, 16), 2**bits - 1
    quantizer = with_step(LsqActivation(bits, site("input")), 0.3)
    value, dx, ds = closed_form(x, g, 0.3, 0, qp)
    found = gradients(quantizer, x, g)
    assert torch.allclose(quantizer(x), value)
    assert torch.allclose(found["x"], dx)
    assert float(found["step"]) == pytest.approx(ds * (16 * qp) ** -0.5)


def test_one_sample_is_enough(site, gradients, x64, g64):
    found = gradients(with_step(LsqActivation(3, site("input")), 0.3), x64[None], g64[None])
    assert float(found["step"]) == pytest.approx(closed_form(x64, g64, 0.3, 0, 7)[2] * (64 * 7) ** -0.5)


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_activations_are_twos_complement(bits, site, gradients, x64, g64):
    x, g = x64.reshape(4, 16), g64.reshape(4, 16)
    qn, qp = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    quantizer = with_step(LsqActivation(bits, site("input"), signed=True, gradient_scale=False), 0.3)
    value, _, ds = closed_form(x, g, 0.3, qn, qp)
    found = gradients(quantizer, x, g)
    assert torch.allclose(quantizer(x), value)
    assert float(found["step"]) == pytest.approx(ds)


def test_starts_are_two_mean_magnitudes_over_root_qp(site):
    w = torch.randn(8, 16)
    quantizer = LsqWeight(4, site())
    quantizer.observe_(w)
    assert float(quantizer.step.detach()) == pytest.approx(2 * float(w.abs().mean()) / 7**0.5)
    channel = LsqWeight(4, site(step_shape=(8, 1)), "channel")
    channel.observe_(w)
    assert torch.allclose(channel.step.flatten(), 2 * w.abs().mean(1) / 7**0.5)
    activation = LsqActivation(3, site("input"))
    activation.observe_(w.abs())
    assert float(activation.step.detach()) == pytest.approx(2 * float(w.abs().mean()) / 7**0.5)


def test_one_bit_weights_are_refused_with_the_reason(site):
    with pytest.raises(ValueError, match=r"layer 'layer'.*2 to 8 bits, got 1.*\{-1, 0\}.*uniq"):
        LsqWeight(1, site())
