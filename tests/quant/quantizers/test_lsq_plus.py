import pytest
import torch

from flatbit.quant.quantizers.lsq_plus import LsqPlusActivation, LsqPlusWeight, best_affine_grid


def with_range(bits, site, step, shift, **options):
    quantizer = LsqPlusActivation(bits, site("input"), **options).double()
    quantizer.set_state_("step", torch.tensor(step, dtype=torch.float64))
    quantizer.set_state_("shift", torch.tensor(shift, dtype=torch.float64))
    return quantizer


@pytest.mark.parametrize("bits", range(1, 9))
def test_activation_forward_and_gradients(bits, site, gradients, x64, g64):
    x, g = x64.reshape(4, 16), g64.reshape(4, 16)
    s, b, m = 0.21, -0.37, 2**bits - 1
    v = (x - b) / s
    inside = (v > 0) & (v < m)
    expected = s * v.clamp(0, m).round() + b
    quantizer = with_range(bits, site, s, b, gradient_scale=False)
    assert torch.allclose(quantizer(x), expected, atol=1e-12)
    found = gradients(quantizer, x, g)
    ds = torch.where(inside, v.round() - v, torch.where(v <= 0, 0.0, float(m)))
    assert torch.allclose(found["x"], g * inside)
    assert float(found["step"]) == pytest.approx(float((g * ds).sum()))
    assert float(found["shift"]) == pytest.approx(float((g * ~inside).sum()))


def test_gradient_scale_reaches_the_step_alone(site, gradients, x64, g64):
    x, g = x64.reshape(4, 16), g64.reshape(4, 16)
    plain = gradients(with_range(3, site, 0.21, -0.37, gradient_scale=False), x, g)
    scaled = gradients(with_range(3, site, 0.21, -0.37), x, g)
    assert float(scaled["step"]) == pytest.approx(float(plain["step"]) * (16 * 7) ** -0.5)
    assert float(scaled["shift"]) == pytest.approx(float(plain["shift"]))


def test_one_sample_is_enough(site, gradients, x64, g64):
    found = gradients(with_range(3, site, 0.21, -0.37), x64[None], g64[None])
    plain = gradients(with_range(3, site, 0.21, -0.37, gradient_scale=False), x64, g64)
    assert float(found["step"]) == pytest.approx(float(plain["step"]) * (64 * 7) ** -0.5)


@pytest.mark.parametrize("mean", [0.5, -0.5])
def test_weight_start_reaches_three_deviations(mean, site):
    w = torch.randn(4000) + mean
    quantizer = LsqPlusWeight(4, site())
    quantizer.observe_(w)
    reach = max(abs(float(w.mean() - 3 * w.std())), abs(float(w.mean() + 3 * w.std())))
    assert float(quantizer.step.detach()) == pytest.approx(reach / 8, rel=1e-4)


def test_minmax_start(site):
    quantizer = LsqPlusActivation(2, site("input"), start="minmax")
    quantizer.observe_(torch.tensor([-0.3, 0.0, 2.7]))
    assert float(quantizer.step.detach()) == pytest.approx(1.0)
    assert float(quantizer.shift.detach()) == pytest.approx(-0.3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_least_error_start_is_not_beaten_nearby(bits, site):
    """Swish outputs: a few negative values, what LSQ+ is made for."""
    x = torch.nn.functional.silu(2 * torch.randn(5000, generator=torch.Generator().manual_seed(2)))
    quantizer = LsqPlusActivation(bits, site("input"))
    quantizer.observe_(x)
    s, b = float(quantizer.step.detach()), float(quantizer.shift.detach())

    def error(step, shift):
        return float((with_range(bits, site, step, shift)(x.double()).detach() - x).square().mean())

    best = error(s, b)
    assert all(best <= error(s * f, b) for f in (0.95, 1.05))
    assert all(best <= error(s, b + d * s) for d in (-0.1, 0.1))
    if bits > 1:
        assert best < error((float(x.max()) - float(x.min())) / (2**bits - 1), float(x.min()))


def test_exact_grid_is_found():
    codes = torch.randint(0, 4, (1000,), generator=torch.Generator().manual_seed(0))
    s, b = best_affine_grid(0.7 * codes - 0.2, torch.tensor(0.7), torch.tensor(-0.2), 3)
    assert float(s) == pytest.approx(0.7, rel=1e-5)
    assert float(b) == pytest.approx(-0.2, abs=1e-5)


@pytest.mark.parametrize("x", [[0.0, 1.0, 0.0, 2.0, 0.0, 3.0], [0.0, 2.0, 0.0, 2.0]])
def test_the_start_counts_every_value_of_a_small_batch(x):
    s, b = best_affine_grid(torch.tensor(x), torch.tensor(1.1), torch.tensor(0.0), 3)
    assert (float(s), float(b)) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))


@pytest.mark.parametrize("bits", [1, 9])
def test_weights_take_2_to_8_bits(bits, site):
    with pytest.raises(ValueError, match=rf"takes 2 to 8 bits, got {bits}"):
        LsqPlusWeight(bits, site())


def test_constant_input_gives_no_range(site):
    quantizer = LsqPlusActivation(4, site("input"))
    quantizer.observe_(torch.full((10,), 2.0))
    assert not quantizer.calibrated


def test_values_that_all_share_one_code_keep_the_first_range():
    s, b = best_affine_grid(torch.ones(10), torch.tensor(1.0), torch.tensor(0.0), 3)
    assert (float(s), float(b)) == (1.0, 0.0)


def test_a_start_of_another_name_is_refused(site):
    with pytest.raises(ValueError, match=r"input of layer 'layer': start='x': expected 'mse' or 'minmax'"):
        LsqPlusActivation(2, site("input"), start="x")
