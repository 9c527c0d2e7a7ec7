import numpy as np
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
    assert quantizer.grid(x).high == 2**31 - 128  # what float32 holds below 2^31


@pytest.mark.parametrize("bits", [8, 16, 24, 25, 26, 31, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_values_survive_the_way_to_a_code_and_back(bits, dtype, site):
    quantizer = FixedPoint(bits, site("bias"), exponent=-16)
    x = torch.tensor([-1e9, -32768.0, -0.3, 32768.0, 1e9], dtype=dtype)
    codes = quantizer.codes(x)
    assert torch.equal(quantizer.grid(x).value(codes), quantizer(x))
    highest = int(codes.max())
    assert highest == -int(codes.min())
    assert (
        highest == int(np.nextafter(np.float32(2 ** (bits - 1)), np.float32(0))) if bits > 24 else 2 ** (bits - 1) - 1
    )


@pytest.mark.parametrize(("bits", "exponent"), [(2, -1), (8, -4), (32, -16)])
def test_half_of_the_bits_are_fractional_unless_it_says(bits, exponent, site):
    x = torch.zeros(1)
    assert float(FixedPoint(bits, site()).grid(x).step) == 2.0**exponent
    assert float(FixedPoint(bits, site(), exponent=3).grid(x).step) == 8.0


@pytest.mark.parametrize("bits", [1, 33])
def test_takes_2_to_32_bits(bits, site):
    with pytest.raises(ValueError, match=rf"takes 2 to 32 bits, got {bits}"):
        FixedPoint(bits, site())


def test_gradient_is_identity(site, gradients, x64, g64):
    assert torch.equal(gradients(FixedPoint(8, site(), exponent=-4).double(), 100 * x64, g64)["x"], g64)


def test_needs_no_calibration_and_refuses_one_bit(site):
    assert FixedPoint(8, site(), exponent=-4).calibrated
    with pytest.raises(ValueError, match="single level"):
        FixedPoint(1, site(), exponent=-4)
