import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import laplace, norm

from flatbit.quant.optimal_step import _distortion, midrise_step, midtread_step, power_of_two_width, unsigned_step

# Spec 1(a) and 1(d), columns D_w and D_a for b = 1..8 (methods specification, tables of 1(a) and 1(d)).
MIDRISE = {
    "gaussian": [1.595769, 0.995687, 0.586019, 0.335201, 0.188139, 0.104063, 0.056868, 0.030762],
    "laplace": [1.414214, 1.087393, 0.730933, 0.460995, 0.279989, 0.165681, 0.096099, 0.054844],
}
UNSIGNED = {
    "gaussian": [1.224006, 0.650770, 0.353411, 0.193249, 0.105488, 0.057261, 0.030870, 0.016528],
    "laplace": [1.414214, 0.821753, 0.486885, 0.287464, 0.167849, 0.096726, 0.055024, 0.030934],
}
SOURCES = {"gaussian": norm(), "laplace": laplace(scale=1 / math.sqrt(2))}
densities = pytest.mark.parametrize("density", ["gaussian", "laplace"])


def distortion(step, first, count, density):
    """E (x - Q(x))^2 on the positive half, by numerical integration: nothing of the code under test."""
    pdf, total = SOURCES[density].pdf, 0.0
    if first == 1.0:
        total += quad(lambda x: x**2 * pdf(x), 0, step / 2)[0]
    for i in range(count):
        level = (first + i) * step
        upper = level + step / 2 if i < count - 1 else 60.0
        total += quad(lambda x, level=level: (x - level) ** 2 * pdf(x), level - step / 2, upper, limit=200)[0]
    return 2 * total


@densities
@pytest.mark.parametrize("bits", range(1, 9))
def test_unit_steps_of_the_specification(bits, density):
    assert midrise_step(bits, density) == pytest.approx(MIDRISE[density][bits - 1], abs=1e-5)
    assert unsigned_step(bits, density) == pytest.approx(UNSIGNED[density][bits - 1], abs=1e-5)
    if bits >= 2:
        assert midtread_step(bits, density) == pytest.approx(UNSIGNED[density][bits - 2], abs=1e-5)


@densities
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_steps_are_where_the_integrated_error_is_least(bits, density):
    for step, first, count in (
        (midrise_step(bits, density), 0.5, 2 ** (bits - 1)),
        (unsigned_step(bits, density), 1.0, 2**bits - 1),
    ):
        least = distortion(step, first, count, density)
        assert least < distortion(step * 1.01, first, count, density)
        assert least < distortion(step * 0.99, first, count, density)


@densities
@pytest.mark.parametrize(("step", "count"), [(0.9, 1), (0.4, 3), (0.1, 7)])
def test_the_error_in_closed_form_is_the_integral(step, count, density):
    assert _distortion(step, count, density) == pytest.approx(distortion(step, 1.0, count, density), rel=1e-6)


def test_uniq_table_1_signal_to_noise():
    """4.4/9.3/14.3/19.4 dB for weights; 5.5/11.6/17.2/22.7 dB for activations, counted by variance."""
    for bits, printed in enumerate((4.4, 9.3, 14.3, 19.4), start=1):
        error = distortion(midrise_step(bits), 0.5, 2 ** (bits - 1), "gaussian")
        assert -10 * math.log10(error) == pytest.approx(printed, abs=0.06)
    for bits, printed in enumerate((5.5, 11.6, 17.2, 22.7), start=1):
        # the rectified Gaussian has variance 1/2 - 1/(2 pi), and half the error of the symmetric source
        error = distortion(unsigned_step(bits), 1.0, 2**bits - 1, "gaussian") / 2
        assert 10 * math.log10((0.5 - 1 / (2 * math.pi)) / error) == pytest.approx(printed, abs=0.06)


def test_one_bit_step_is_twice_the_mean_magnitude():
    assert midrise_step(1) == pytest.approx(2 * math.sqrt(2 / math.pi), abs=1e-9)
    assert midrise_step(1, "laplace") == pytest.approx(math.sqrt(2), abs=1e-9)


FAQ_WIDTHS = [
    (2, "gaussian", 2.54), (4, "gaussian", 4.04), (8, "gaussian", 6.41),
    (2, "laplace", 2.99), (4, "laplace", 5.17), (8, "laplace", 10.92),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "density", "published"), FAQ_WIDTHS)
def test_faq_widths_minimise_the_error_averaged_over_the_position_of_std(bits, density, published):
    width, count = power_of_two_width(bits, density), 2 ** (bits - 1) - 1
    assert width == pytest.approx(published, rel=0.021)  # the specification searched in steps of 2 %
    positions = np.linspace(0, 1, 65)

    def averaged(c):
        base = c / (2**bits - 1)
        errors = [distortion(base * 2**t, 1.0, count, density) for t in positions]
        return np.trapezoid(errors, positions)

    if bits <= 4:  # 127 levels would integrate for minutes
        assert averaged(width) < averaged(width * 1.03)
        assert averaged(width) < averaged(width * 0.97)
