import pytest
import torch

from flatbit.quant.quantizers.xnor import XnorActivation, XnorWeight


def test_weights_are_signs_times_the_filters_mean_magnitude(site):
    w = torch.randn(4, 3, 2, 2)
    quantizer = XnorWeight(1, site(step_shape=(4, 1, 1, 1)))
    expected = w.sign() * w.abs().mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(quantizer(w), expected)
    assert quantizer.granularity == "channel"


def test_weight_gradient_is_masked_to_the_unit_interval(site, gradients, x64, g64):
    masked = XnorWeight(1, site(), "tensor").double()
    assert torch.equal(gradients(masked, x64, g64)["x"], g64 * (x64.abs() <= 1))
    open_ended = XnorWeight(1, site(), "tensor", mask=False).double()
    assert torch.equal(gradients(open_ended, x64, g64)["x"], g64)


def test_activations_are_signs_with_a_window_gradient(site, gradients, x64, g64):
    quantizer = XnorActivation(1, site("input")).double()
    assert torch.equal(quantizer(x64), torch.where(x64 < 0, -1.0, 1.0).double())
    assert torch.equal(gradients(quantizer, x64, g64)["x"], g64 * (x64.abs() <= 1))
    assert quantizer(torch.zeros(1).double()).tolist() == [1.0]


def test_never_negative_input_is_refused(site):
    for x in (torch.rand(5), torch.tensor([0.0, 0.5])):
        with pytest.raises(ValueError, match=r"layer 'layer'.*never negative.*batch-norm, sign, convolution.*uniq"):
            XnorActivation(1, site("input")).observe_(x)
    XnorActivation(1, site("input")).observe_(torch.tensor([-0.1, 0.5]))


def test_only_one_bit(site):
    with pytest.raises(ValueError, match="XNOR-Net is binary"):
        XnorWeight(2, site())


def test_a_filter_of_zeros_gives_no_nan(site):
    w = torch.zeros(2, 3)
    w[0] = 1
    out = XnorWeight(1, site(step_shape=(2, 1)))(w)
    assert out[0].tolist() == [1, 1, 1]
    assert 0 < float(out[1].max()) < 1e-7
