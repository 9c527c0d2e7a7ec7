import pytest
import torch

from flatbit.quant.quantizers.dorefa import DorefaActivation, DorefaWeight


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_go_through_a_tanh(bits, site, gradients, x64, g64):
    s, t = 2**bits - 1, x64.tanh()
    expected = 2 * (s * (t / (2 * t.abs().max()) + 0.5)).round() / s - 1
    quantizer = DorefaWeight(bits, site()).double()
    assert torch.allclose(quantizer(x64), expected, atol=1e-12)
    assert torch.allclose(gradients(quantizer, x64, g64)["x"], g64 * (1 - t**2) / t.abs().max())


def test_one_bit_is_the_mean_magnitude_with_identity_gradient(site, gradients, x64, g64):
    quantizer = DorefaWeight(1, site()).double()
    assert torch.allclose(quantizer(x64), x64.abs().mean() * x64.sign())
    assert torch.equal(gradients(quantizer, x64, g64)["x"], g64)
    assert float(quantizer(torch.tensor([0.0, 1.0]).double())[0]) == 0.5  # sign(0) = +1


@pytest.mark.parametrize("bits", range(1, 9))
def test_activations_are_clipped_to_the_unit_interval(bits, site, gradients, x64, g64):
    s = 2**bits - 1
    quantizer = DorefaActivation(bits, site("input")).double()
    assert torch.allclose(quantizer(x64), (s * x64.clamp(0, 1)).round() / s)
    assert torch.equal(gradients(quantizer, x64, g64)["x"], g64 * ((x64 > 0) & (x64 < 1)))


def test_signed_inputs_are_refused_unless_clipping_is_asked_for(site):
    x = torch.tensor([-1.0, 1.0])
    with pytest.raises(ValueError, match=r"layer 'layer'.*negative.*\[0, 1\].*signed=False"):
        DorefaActivation(2, site("input")).observe_(x)
    clipping = DorefaActivation(2, site("input"), signed=False)
    clipping.observe_(x)
    assert clipping(x).tolist() == [0.0, 1.0]


def test_nothing_to_calibrate(site):
    for quantizer in (DorefaWeight(4, site()), DorefaActivation(4, site("input"))):
        quantizer.observe_(torch.rand(5))
        assert quantizer.calibrated
        assert quantizer.state() == []
    assert float(DorefaActivation(4, site("input")).start(torch.rand(5))) == 0  # no batch asks for a range


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_weights_of_zeros_give_no_nan(bits, site):
    assert bool(DorefaWeight(bits, site())(torch.zeros(4)).isfinite().all())
