import pytest
import torch

from flatbit.quant.optimal_step import midrise_step, midtread_step
from flatbit.quant.quantizers.sqwa import SqwaWeight, least_squares_step


def naive_alternation(w, start, q_of):
    """The specification's five steps as written, without sorting or running sums."""
    best, least = None, float("inf")
    for scale in (1.0, 0.5, 0.7, 0.85, 1.2, 1.5):
        step = start * scale
        for _ in range(200):
            q = q_of(w / step)
            if float(q.square().sum()) == 0:
                step = step / 2
                continue
            previous, step = step, float((w * q).sum() / q.square().sum())
            if abs(step - previous) < 1e-6 * previous:
                break
        error = float((w - step * q_of(w / step)).square().sum())
        if error < least:
            best, least = step, error
    return best, least


@pytest.mark.parametrize("bits", range(2, 9))
def test_step_of_the_specification(bits, site):
    w = torch.randn(3000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    k = 2 ** (bits - 1) - 1
    start = midtread_step(bits) * float(w.std())
    step, least = naive_alternation(w, start, lambda v: v.sign() * (v.abs() + 0.5).floor().clamp(max=k))
    quantizer = SqwaWeight(bits, site()).double()
    quantizer.observe_(w)
    error = float((w - quantizer(w)).square().sum())
    if bits <= 3:  # every start gives the same answer there; beyond, more starts find less error
        assert float(quantizer.step) == pytest.approx(step, rel=1e-4)
    assert error <= least * (1 + 1e-6)


SOURCES = {
    "gaussian": lambda n: torch.randn(n, dtype=torch.float64),
    "laplace": lambda n: torch.distributions.Laplace(0.0, torch.ones((), dtype=torch.float64)).sample((n,)),
    "uniform": lambda n: torch.rand(n, dtype=torch.float64) - 0.5,
    "bimodal": lambda n: torch.randn(n, dtype=torch.float64) / 5 + torch.randn(n).sign(),
    "long-tailed": lambda n: torch.distributions.StudentT(torch.full((), 2.0, dtype=torch.float64)).sample((n,)),
}


def least_error(w, offset, high):
    """The least ``sum (w - w^q)^2`` of all steps, exactly: it falls as the step passes each weight's cell borders.

    Between two borders the codes q stay, and the best step leaves ``sum w^2 - (sum w q)^2/sum q^2``.
    """
    w, k = w.abs(), torch.arange(1, high + 1, dtype=torch.float64)
    borders, gains = (k - 0.5 + offset), 2 * (k - 0.5 + offset)  # of |w|/D, and of q^2 when w crosses it
    order = (w[:, None] / borders).flatten().argsort(descending=True)
    products = w.repeat_interleave(high)[order].cumsum(0) + offset * w.sum()
    squares = gains.repeat(len(w))[order].cumsum(0) + offset**2 * len(w)
    explained = (products.square() / squares).tolist() + [float(w.mean() ** 2 * len(w))] * (offset > 0)
    return float(w.square().sum()) - max(explained)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("n", [144, 16 * 16 * 3 * 3])
def test_step_has_the_least_error_of_all_steps(bits, offset, source, n):
    """Up to 3 bits only on many weights without long tails: there are 40 starts, whatever the weights."""
    if (bits == 1 and not offset) or (bits <= 3 and (n < 2000 or source == "long-tailed")):
        return
    w, high = SOURCES[source](n), 2 ** (bits - 1) - 1
    unit = midrise_step(bits) if offset else midtread_step(bits)
    step = least_squares_step(w, unit * w.std(), offset, high)
    code = ((w.abs() / step + 0.5 - offset).floor()).clamp(max=high)
    error = float((w.abs() - step * (code + offset)).square().sum())
    assert error <= (1 + 1e-4) * least_error(w, offset, high)


def test_one_bit_is_plus_or_minus_the_mean_magnitude(site):
    w = torch.tensor([0.5, -1.5, 0.0, 2.0])
    quantizer = SqwaWeight(1, site())
    quantizer.observe_(w)
    assert quantizer(w).tolist() == [1.0, -1.0, 1.0, 1.0]  # mean |w| = 1, sign(0) = +1


@pytest.mark.parametrize("w", [[3.0], [1.0, -1.0], [1.0, 2.0, -3.0]])
def test_one_bit_is_the_mean_magnitude_of_a_few_weights_too(w, site):
    w = torch.tensor(w)
    quantizer = SqwaWeight(1, site())
    quantizer.observe_(w)
    assert torch.allclose(quantizer(w), w.abs().mean() * w.sign())


def test_halves_go_away_from_zero(site):
    quantizer = SqwaWeight(3, site())
    quantizer.set_state_("step", torch.tensor(1.0))
    w = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 9.0, 0.0])
    assert quantizer(w).tolist() == [-3, -2, -1, 1, 2, 3, 3, 0]


def test_gradient_passes_unchanged_even_outside(site, gradients, x64, g64):
    quantizer = SqwaWeight(2, site()).double()
    quantizer.set_state_("step", torch.tensor(0.1, dtype=torch.float64))
    found = gradients(quantizer, x64 * 100, g64)
    assert torch.equal(found["x"], g64)
    assert set(found) == {"x"}  # the step is no parameter


def test_four_level_variant_of_hol(site):
    w = torch.randn(2000, dtype=torch.float64)
    quantizer = SqwaWeight(2, site(), grid="midrise").double()
    quantizer.observe_(w)
    levels = (quantizer(w) / quantizer.step).unique()
    assert torch.allclose(levels, torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64))
    nearest = lambda v: (v.abs().floor().clamp(max=1) + 0.5) * v.sign()  # noqa: E731
    assert float(quantizer.step) == pytest.approx(naive_alternation(w, 0.9957 * float(w.std()), nearest)[0], rel=1e-3)


def test_average_of_captures_on_one_grid_lies_on_a_finer_grid(site):
    quantizer = SqwaWeight(2, site())
    quantizer.set_state_("step", torch.tensor(0.3))
    average = torch.stack([quantizer(torch.randn(50)) for _ in range(7)]).mean(0)
    codes = average / (0.3 / 7)
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert int(codes.abs().max().round()) <= 7


def test_step_scales_with_the_weights():
    w = torch.randn(500, dtype=torch.float64)
    small = least_squares_step(w, w.std(), 0.0, 3)
    assert float(least_squares_step(1000 * w, 1000 * w.std(), 0.0, 3)) == pytest.approx(1000 * float(small), rel=1e-5)


@pytest.mark.parametrize("grid", ["midtread", "midrise"])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_the_step_found_scales_with_the_weights(bits, scale, grid, site):
    w, steps = torch.randn(500, dtype=torch.float64), []
    for weight in (w, scale * w):
        quantizer = SqwaWeight(bits, site(), grid=grid).double()
        quantizer.observe_(weight)
        steps.append(float(quantizer.step))
    assert steps[1] == pytest.approx(scale * steps[0], rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("high", [3, 127])
@pytest.mark.parametrize(("weight", "start"), [(0.0, 0.0), (0.0, 1.0), (1e-30, 0.0)])
def test_weights_of_zeros_get_a_positive_step(offset, high, weight, start):
    w = torch.full((10,), weight)
    assert float(least_squares_step(w, torch.tensor(start), offset, high)) == pytest.approx(1e-8)


def test_a_grid_of_another_name_are_refused(site):
    with pytest.raises(ValueError, match=r"weight of layer 'layer': grid='x': expected 'midtread' or 'midrise'"):
        SqwaWeight(2, site(), grid="x")
