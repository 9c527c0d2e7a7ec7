import pytest
import torch

from flatbit.quant.quantizers.fixed_point import FixedPoint


def test_faqs_scale_format_eight_bits_in_sixteenths(site):
    quantizer = FixedPoint(8, site("weight"), exponent=-4)
    x = torch.tensor([0.03, 0.04, 1.0, -1.03, 7.95, 100.0, -100.0])
    assert quantizer(x).tolist() == [0.0, 0.0625, 1.0, -1.0, 127 / 16, 127 / 16, -127 / 16]


def test_faqs_bias_format_thirty_two_bits(site):
    quantizer = FixedPoint(32, site("bias"), exponent=-16)
    x = torch.tensor([1 / 3, -2.5, 1e-6], dtype=torch.float64)
    assert quantizer(x).tolist() == [21845 / 65536, -2.5, 0.0]
    assert quantizer.grid(x).high == 2**31 - 1


def test_gradient_is_identity(site, gradients, x64, g64):
    assert torch.equal(gradients(FixedPoint(8, site(), exponent=-4).double(), 100 * x64, g64)["x"], g64)


def test_needs_no_calibration_and_refuses_one_bit(site):
    assert FixedPoint(8, site(), exponent=-4).calibrated
    with pytest.raises(ValueError, match="single level"):
        FixedPoint(1, site(), exponent=-4)
