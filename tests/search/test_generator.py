import itertools
import math

import pytest
import torch

import flatbit as fb
from flatbit.search.generator import Generator, Reinforce, adam
from flatbit.search.samq import KAPPA

from .cases import priced, quantized


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def path_of(generator, widths):
    """Log-probability and entropy of a path, written out: gates by hand, a softmax over what is allowed."""
    p = dict(generator.named_parameters())
    h = c = x = torch.zeros(64)
    log, entropy = torch.zeros(()), torch.zeros(())
    for allowed, width in zip(generator.allowed, widths, strict=True):
        gates = p["cell.weight_ih"] @ x + p["cell.bias_ih"] + p["cell.weight_hh"] @ h + p["cell.bias_hh"]
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        scores = p["scores.weight"] @ h + p["scores.bias"]
        chances = scores.exp() * allowed / (scores.exp() * allowed).sum()
        index = generator.widths.index(width)
        log = log + chances[index].log()
        entropy = entropy - sum(q * q.log() for q in chances if q > 0)
        x = p["embedding.weight"][index]
    return log, entropy


def test_weights_start_in_a_tenth_around_zero_by_seed():
    generator = Generator([(2, 3, 4, 5)] * 3, seed=1)
    shapes = {name: tuple(p.shape) for name, p in generator.named_parameters()}
    assert shapes == {
        "embedding.weight": (4, 64), "cell.weight_ih": (256, 64), "cell.weight_hh": (256, 64), "cell.bias_ih": (256,),
        "cell.bias_hh": (256,), "scores.weight": (4, 64), "scores.bias": (4,),
    }  # fmt: skip
    flat = torch.cat([p.detach().flatten() for p in generator.parameters()])
    assert flat.abs().max() <= 0.1
    assert flat.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    assert abs(float(flat.mean())) < 1e-3
    same, other = Generator([(2, 3, 4, 5)] * 3, seed=1), Generator([(2, 3, 4, 5)] * 3, seed=2)
    assert torch.equal(same.scores.weight, generator.scores.weight)
    assert not torch.equal(other.scores.weight, generator.scores.weight)


@pytest.mark.parametrize("choices", [[(2, 3, 4, 5)] * 5, [(2, 3), (4,), (2, 5), (3, 4, 5)]])
def test_log_probability_and_entropy_of_a_path(choices):
    generator = Generator(choices, seed=3)
    for seed in range(5):
        sample = generator.sample(stream(seed))
        log, entropy = path_of(generator, sample.widths)
        torch.testing.assert_close(sample.log_probability, log)
        torch.testing.assert_close(sample.entropy, entropy)
        assert sample.log_probability.shape == sample.entropy.shape == ()


def test_masked_widths_are_never_drawn_and_draws_follow_the_stream():
    choices = [(2, 5), (3,), (2, 3, 4, 5), (4,)]
    generator, draws = Generator(choices), stream(7)
    with torch.no_grad():
        samples = [generator.sample(draws) for _ in range(200)]
    for sample in samples:
        assert all(width in widths for width, widths in zip(sample.widths, choices, strict=True))
        assert sample.entropy <= math.log(2) + math.log(4) + 1e-6
    assert len({sample.widths for sample in samples}) == 8
    assert generator.sample(stream(7)).widths == samples[0].widths


def test_where_there_is_one_way_it_is_certain():
    sample = Generator([(3,), (5,)]).sample(stream())
    assert sample.widths == (3, 5)
    assert sample.log_probability.item() == sample.entropy.item() == 0
    sample.log_probability.backward()  # zero, not undefined


def test_frequencies_are_the_probabilities():
    generator, draws = Generator([(2, 3)] * 2, seed=5), stream(1)
    with torch.no_grad():
        generator.scores.bias.copy_(torch.tensor([1.0, 0.0]))
        counts = dict.fromkeys(itertools.product((2, 3), repeat=2), 0)
        for _ in range(2000):
            counts[generator.sample(draws).widths] += 1
        for path, count in counts.items():
            p = path_of(generator, path)[0].exp().item()
            assert count / 2000 == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000))


COSTS = {(2, 2): 1.0, (2, 3): 3.0, (3, 2): 0.5, (3, 3): 2.0}


def test_the_estimate_is_unbiased_and_descends_the_expected_cost():
    """The mean gradient over all paths is that of ``E[R] - alpha H`` where the baseline is any constant."""
    generator = Generator([(2, 3)] * 2, seed=2)
    parameters = [p for name, p in generator.named_parameters() if "hh" not in name]
    expected_cost, weighted = torch.zeros(()), [torch.zeros_like(p) for p in parameters]
    for path, cost in COSTS.items():
        log, _ = path_of(generator, path)
        expected_cost = expected_cost + log.exp() * cost
        score = torch.autograd.grad((cost - 0.8) * log, parameters, allow_unused=True, retain_graph=True)
        weighted = [w + log.exp().detach() * s for w, s in zip(weighted, score, strict=True)]
    exact = torch.autograd.grad(expected_cost, parameters)
    for a, b in zip(weighted, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("decay", "first"), [(None, 2.0), (0.5, 0.0)])
def test_a_step_descends_the_scored_cost_and_raises_entropy(decay, first):
    """By SGD of rate 1 the parameters move by the gradient itself; the first sample's baseline is its own cost."""
    generator = Generator([(2, 3)] * 2, seed=2)
    reinforce = Reinforce(
        generator=generator, optimizer=torch.optim.SGD(generator.parameters(), lr=1.0), entropy=0.1, decay=decay
    )
    before = [p.detach().clone() for p in generator.parameters()]
    sample = generator.sample(stream())
    log, entropy = path_of(generator, sample.widths)
    expected = torch.autograd.grad(first * log - 0.1 * entropy, list(generator.parameters()))
    reinforce.step(sample, 2.0)
    for p, was, gradient in zip(generator.parameters(), before, expected, strict=True):
        torch.testing.assert_close(was - p.detach(), gradient, rtol=1e-3, atol=1e-6)
    assert reinforce.baseline == (None if decay is None else 2.0)
    reinforce.step(generator.sample(stream()), 4.0)
    assert reinforce.baseline == (None if decay is None else 3.0)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_it_finds_the_cheapest_of_a_tiny_space(decay):
    generator, draws = Generator([(2, 3)] * 2, seed=0), stream(0)
    reinforce = Reinforce(generator=generator, optimizer=adam(generator, lr=5e-3), decay=decay)
    for _ in range(300):
        sample = generator.sample(draws)
        reinforce.step(sample, COSTS[sample.widths])
    assert path_of(generator, (3, 2))[0].exp().item() > 0.9


def test_the_papers_optimizer():
    (group,) = adam(Generator([(2, 3)])).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (5e-4, (0.5, 0.999), 5e-5)


def test_the_toy_search_of_the_spec():
    """SAMQ on ResNet-20's true cost, 392 M, with a constant loss and no baseline (spec, section 4.2)."""
    model = quantized(fb.models.build("preresnet20", variant="saq", num_classes=100))
    space, prices = priced(model, (3, 32, 32), (2, 3, 4, 5))
    generator, draws, target = Generator([choice.widths for choice in space.choices]), stream(), 392e6
    reinforce = Reinforce(generator=generator, optimizer=adam(generator), decay=None)
    names = [choice.name for choice in space.choices]

    def drawn(draws):
        sample = generator.sample(draws)
        spent = prices.total(dict(zip(names, sample.widths, strict=True))).bitops
        return sample, spent / 1e6, 1.5 + KAPPA * ((spent - target) / target) ** 2

    def means(seen):
        return [sum(column) / len(seen) for column in zip(*seen, strict=True)]

    others = stream(1)
    with torch.no_grad():
        early, _ = means([drawn(others)[1:] for _ in range(150)])
    assert early == pytest.approx(571, rel=0.05)
    assert 1.5 + KAPPA * (early * 1e6 / target - 1) ** 2 == pytest.approx(4.70, rel=0.15)
    late = []
    for _ in range(500):
        sample, spent, cost = drawn(draws)
        reinforce.step(sample, cost)
        late = [*late[-99:], (spent, cost)]
    mean_spent, mean_cost = means(late)
    assert mean_spent == pytest.approx(396, rel=0.06)
    assert mean_cost == pytest.approx(1.87, rel=0.1)
