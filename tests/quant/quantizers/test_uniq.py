import pytest
import torch

from flatbit.quant.optimal_step import midrise_step, unsigned_step
from flatbit.quant.quantizers.saq import SaqWeight
from flatbit.quant.quantizers.uniq import UniqActivation, UniqWeight

bits_1_to_8 = pytest.mark.parametrize("bits", range(1, 9))


def with_step(quantizer, value):
    quantizer = quantizer.double()
    quantizer.set_state_("step", torch.tensor(value, dtype=torch.float64).expand(quantizer.step.shape))
    return quantizer


@bits_1_to_8
def test_levels_of_weights_and_activations(bits, site):
    n = 2**bits
    weight = with_step(UniqWeight(bits, site()), 0.1)
    x = torch.linspace(-50, 50, 20_001, dtype=torch.float64)
    assert torch.allclose(weight(x).unique(), 0.1 * torch.arange(-(n - 1) / 2, n / 2, 1.0, dtype=torch.float64))
    activation = with_step(UniqActivation(bits, site("input")), 0.1)
    assert torch.allclose(activation(x).unique(), 0.1 * torch.arange(n, dtype=torch.float64))


@bits_1_to_8
def test_forward_is_the_papers_formula(bits, site, x64):
    step, n = 0.37, 2**bits
    al = step * (n - 1) / 2
    expected = step * ((x64 + al) / step).clamp(0, n - 1).round() - al
    assert torch.allclose(with_step(UniqWeight(bits, site()), step)(x64), expected, atol=1e-12)


@bits_1_to_8
def test_weight_gradients_are_the_corrected_closed_form(bits, site, gradients, x64, g64):
    step, n = 0.2, 2**bits
    al = step * (n - 1) / 2
    quantizer = with_step(UniqWeight(bits, site(), gradient_scale=False), step)
    found = gradients(quantizer, x64, g64)
    inside = x64.abs() < al
    wq = quantizer(x64).detach()
    outer = x64.sign() * (n - 1) / 2  # the paper's eq. 6 prints sign(w) al: off by the factor D
    assert torch.allclose(found["x"], g64 * inside)
    assert float(found["step"]) == pytest.approx(float((g64 * torch.where(inside, (wq - x64) / step, outer)).sum()))


@bits_1_to_8
def test_activation_gradients_are_the_closed_form(bits, site, gradients, x64, g64):
    step, n = 0.2, 2**bits
    quantizer = with_step(UniqActivation(bits, site("input"), gradient_scale=False), step)
    found = gradients(quantizer, x64, g64)
    inside = (x64 > 0) & (x64 < (n - 1) * step)
    outer = torch.where(x64 >= (n - 1) * step, n - 1.0, 0.0)
    yq = quantizer(x64).detach()
    assert torch.allclose(found["x"], g64 * inside)
    assert float(found["step"]) == pytest.approx(float((g64 * torch.where(inside, (yq - x64) / step, outer)).sum()))


@bits_1_to_8
def test_gradient_scale_of_the_authors_code(bits, site, gradients, x64, g64):
    x, g = x64.reshape(4, 16), g64.reshape(4, 16)
    for made, role, scale in (
        (UniqWeight, "weight", (64 * max(2 ** (bits - 1) - 1, 1)) ** -0.5),
        (UniqActivation, "input", (64 * (2**bits - 1)) ** -0.5),  # all elements, the batch included
    ):
        plain = gradients(with_step(made(bits, site(role), gradient_scale=False), 0.2), x, g)
        scaled = gradients(with_step(made(bits, site(role)), 0.2), x, g)
        assert float(scaled["step"]) == pytest.approx(scale * float(plain["step"]))
        assert torch.equal(scaled["x"], plain["x"])


def test_gradient_scale_per_channel_counts_the_channel(site, gradients):
    x, g = torch.randn(3, 5, 2, 2, dtype=torch.float64), torch.randn(3, 5, 2, 2, dtype=torch.float64)
    shape = {"step_shape": (3, 1, 1, 1)}
    plain = gradients(with_step(UniqWeight(3, site(**shape), "channel", gradient_scale=False), 0.4), x, g)
    scaled = gradients(with_step(UniqWeight(3, site(**shape), "channel"), 0.4), x, g)
    assert scaled["step"].shape == (3, 1, 1, 1)
    assert torch.allclose(scaled["step"], plain["step"] * (20 * 3) ** -0.5)
    alone = gradients(with_step(UniqWeight(3, site(), gradient_scale=False), 0.4), x[1], g[1])
    assert float(plain["step"].flatten()[1]) == pytest.approx(float(alone["step"]))


@bits_1_to_8
def test_starts_at_the_optimal_step(bits, site):
    w = torch.randn(8, 4, 3, 3)
    per_tensor, per_channel = UniqWeight(bits, site()), UniqWeight(bits, site(step_shape=(8, 1, 1, 1)), "channel")
    per_tensor.observe_(w)
    per_channel.observe_(w)
    assert float(per_tensor.step.detach()) == pytest.approx(midrise_step(bits) * float(w.std()), rel=1e-6)
    assert torch.allclose(per_channel.step.flatten(), midrise_step(bits) * w.flatten(1).std(dim=1))


@bits_1_to_8
def test_start_beats_its_neighbours_on_gaussian_weights(bits, site):
    w = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    quantizer = UniqWeight(bits, site())
    quantizer.observe_(w)
    start = float(quantizer.step.detach())
    errors = []
    for factor in (0.93, 1.0, 1.07):
        quantizer.set_state_("step", torch.tensor(start * factor))
        errors.append(float((quantizer(w) - w).square().mean().detach()))
    assert errors[1] == min(errors)


def test_activation_start_keeps_the_largest_batch(site):
    quantizer = UniqActivation(2, site("input"))
    batches = [torch.randn(100).relu() * scale for scale in (1.0, 3.0, 2.0)]
    for batch in batches:
        quantizer.observe_(batch)
    expected = unsigned_step(2) * max(float((2 * batch.square().mean()).sqrt()) for batch in batches)
    assert float(quantizer.step.detach()) == pytest.approx(expected, rel=1e-5)
    assert not quantizer.signed


def test_signed_input_takes_the_weight_form(site):
    quantizer = UniqActivation(8, site("input"))
    x = torch.randn(1000)
    quantizer.observe_(x)
    assert quantizer.signed
    assert float(quantizer.step.detach()) == pytest.approx(midrise_step(8) * float(x.square().mean().sqrt()), rel=1e-5)
    grid = quantizer.grid(x)
    assert (grid.offset, grid.low, grid.high) == (0.5, -128, 127)


@pytest.mark.parametrize(
    ("start", "bits", "expected"),
    [(0.1, 2, 0.1), (0.2, 3, 0.2), ("lsq", 1, 6.0), ("lsq", 2, 6.0), ("lsq", 3, 6 / 3**0.5)],
)
def test_other_starts_of_table_5(start, bits, expected, site):
    w = torch.tensor([3.0, -3.0, 3.0, -3.0])
    quantizer = UniqWeight(bits, site(), start=start)
    quantizer.observe_(w)
    assert float(quantizer.step.detach()) == pytest.approx(expected)
    activation = UniqActivation(2, site("input"), start=start)
    activation.observe_(w.abs())
    assert float(activation.step.detach()) == pytest.approx(start if start != "lsq" else 6 / 3**0.5)


@bits_1_to_8
def test_saq_weights_are_uniq_weights_with_step_two_clips_over_levels(bits, site, gradients, x64, g64):
    clip = 0.8
    saq = SaqWeight(bits, site(kind="linear")).double()
    saq.set_state_("clip", torch.tensor(clip, dtype=torch.float64))
    uniq = with_step(UniqWeight(bits, site(), gradient_scale=False), 2 * clip / (2**bits - 1))
    assert torch.allclose(saq(x64), uniq(x64), rtol=0, atol=1e-15)
    by_clip, by_step = gradients(saq, x64, g64), gradients(uniq, x64, g64)
    assert torch.equal(by_clip["x"], by_step["x"])
    assert float(by_clip["clip"]) == pytest.approx(float(by_step["step"]) * 2 / (2**bits - 1))


# The methods specification's unit steps for a Laplacian of unit variance, b = 1..8: D_w and D_a.
LAPLACE_WEIGHTS = [1.414214, 1.087393, 0.730933, 0.460995, 0.279989, 0.165681, 0.096099, 0.054844]
LAPLACE_ACTIVATIONS = [1.414214, 0.821753, 0.486885, 0.287464, 0.167849, 0.096726, 0.055024, 0.030934]


@bits_1_to_8
def test_start_for_a_laplacian(bits, site):
    w = torch.randn(500)
    weight = UniqWeight(bits, site(), start="laplace")
    weight.observe_(w)
    assert float(weight.step.detach()) == pytest.approx(LAPLACE_WEIGHTS[bits - 1] * float(w.std()), rel=2e-5)
    for x, unit in ((w.abs(), 2**0.5 * LAPLACE_ACTIVATIONS[bits - 1]), (w, LAPLACE_WEIGHTS[bits - 1])):
        activation = UniqActivation(bits, site("input"), start="laplace")
        activation.observe_(x)
        expected = unit * float(w.square().mean().sqrt())
        assert float(activation.step.detach()) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("start", ["x", 0.0, -0.1, True, None])
def test_starts_that_do_not_exist_are_refused(start, site):
    for made, role in ((UniqWeight, "weight"), (UniqActivation, "input")):
        with pytest.raises(ValueError, match=r"start=.*expected 'optimal' or 'laplace' or 'lsq' or a positive number"):
            made(2, site(role), start=start)
