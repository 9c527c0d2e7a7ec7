import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatbit.search import allocation
from flatbit.search.allocation import allocate, frontier
from flatbit.search.budget import Budget
from flatbit.search.costs import Price

from .cases import every, free_prices, free_space

MACS = st.integers(1, 10**8)
LOSS = st.floats(-10, 10, allow_subnormal=False)


def square(macs, size, widths=(2, 3, 4)):
    """A layer's prices: ``macs b^2`` and ``size b`` in bits, whole bytes."""
    return {bits: (macs * bits**2, (size * bits + 7) // 8) for bits in widths}


@st.composite
def nets(draw):
    """Losses and prices of one to five choices, some of them with one width."""
    widths = draw(st.lists(st.sets(st.integers(1, 6), min_size=1, max_size=4).map(sorted), min_size=1, max_size=5))
    rows = [square(draw(MACS), draw(st.integers(1, 10**5)), each) for each in widths]
    loss = {chr(97 + i): {bits: draw(LOSS) for bits in each} for i, each in enumerate(widths)}
    return loss, free_prices(*rows, fixed=(draw(st.integers(0, 10**9)), draw(st.integers(0, 10**5))))


def loss_of(loss, bits):
    return math.fsum(loss[name][width] for name, width in bits.items())


def least(loss, prices, budget):
    """By enumeration."""
    return min(loss_of(loss, bits) for bits in every(prices) if budget.holds(prices.total(bits)))


def holds_as_optimum(loss, prices, budget):
    found = allocate(loss, prices, budget)
    expected = least(loss, prices, budget)
    assert budget.holds(found.price)
    assert found.price == prices.total(found.bits)
    assert found.bits.keys() == loss.keys()
    assert found.loss == pytest.approx(loss_of(loss, found.bits), rel=1e-12, abs=1e-12)
    assert found.loss == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert found.bound == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_the_optimum_of_all(data):
    """Under budgets of either kind and both, which are what some allocation costs or a little less."""
    loss, prices = data.draw(nets())
    low, _ = prices.range()
    made = [prices.total(bits) for bits in every(prices)]
    spent, size = data.draw(st.sampled_from(made)), data.draw(st.sampled_from(made))
    less = data.draw(st.integers(0, 2))
    bitops, size_bytes = max(spent.bitops - less, low.bitops), max(size.size_bytes - less, low.size_bytes)
    kind = data.draw(st.sampled_from(["bitops", "bytes", "both"]))
    given_budget = {} if kind == "bytes" else {"bitops": bitops}
    given_budget |= {} if kind == "bitops" else {"size_bytes": size_bytes}
    holds_as_optimum(loss, prices, Budget(**given_budget))


def test_a_budget_that_is_missed_by_one_of_hundreds_of_millions_is_missed():
    """The solver's tolerance is wider than that: it takes both choices at 4 bits."""
    loss = {"a": {2: 1.0, 4: 0.0}, "b": {2: 2.0, 4: 0.0}}
    prices = free_prices(square(20_000_003, 9, (2, 4)), square(10_000_001, 9, (2, 4)), fixed=(10**9, 0))
    most = prices.total({"a": 4, "b": 4}).bitops
    assert allocate(loss, prices, Budget(bitops=most)).bits == {"a": 4, "b": 4}
    assert allocate(loss, prices, Budget(bitops=most - 1)).bits == {"a": 2, "b": 4}


def near_ties(n=8):
    """Choices whose losses and costs are all nearly in proportion: where a gap of 1e-4 is wide."""
    rows, loss = [], {}
    for i in range(n):
        macs = 1_000_000 + 7919 * (i * i % 13) + 104729 * i
        rows.append(square(macs, 1000 + i, (2, 3, 4)))
        loss[chr(97 + i)] = {bits: (16 - bits**2) * macs * (1 + 1e-3 * math.sin(9 * i + bits)) for bits in (2, 3, 4)}
    return loss, free_prices(*rows)


def proven(loss, prices, budget):
    """By dynamic programming over the frontier, in whole bit-operations."""
    return min(each.loss for each in frontier(loss, prices) if budget.holds(each.price))


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.75])
@pytest.mark.parametrize("factor", [1.0, 1e-9, 1e9])
def test_the_solvers_gap_and_the_scale_of_losses_do_not_matter(share, factor):
    loss, prices = near_ties()
    loss = {name: {bits: factor * value for bits, value in row.items()} for name, row in loss.items()}
    low, high = prices.range()
    budget = Budget(bitops=round(low.bitops + share * (high.bitops - low.bitops)))
    found = allocate(loss, prices, budget)
    assert found.loss == pytest.approx(proven(loss, prices, budget), rel=1e-12)


def trapped(small):
    """How far answers are from the optimum, on random nets whose choices differ by ``small`` parts of their losses."""
    generator = random.Random(0)
    for _ in range(40):
        rows = [square(generator.randint(1, 10**7), 8) for _ in range(6)]
        loss = {chr(97 + i): {bits: 4 - bits + small * generator.random() for bits in (2, 3, 4)} for i in range(6)}
        prices = free_prices(*rows)
        spent = prices.total({name: generator.choice((2, 3, 4)) for name in loss}).bitops
        budget = Budget(bitops=max(spent - 1, prices.range()[0].bitops))
        yield allocate(loss, prices, budget).loss - least(loss, prices, budget)


@pytest.mark.parametrize("small", [1e-4, 1e-6, 1e-8])
def test_answers_are_optima_where_losses_nearly_tie(small):
    assert max(trapped(small)) < 1e-12


def test_with_the_solvers_own_gap_they_are_not(monkeypatch):
    """The trap: status 0, "optimal", and another answer."""
    monkeypatch.setattr(allocation, "OPTIONS", {})
    assert max(trapped(1e-4)) > 1e-6


def test_with_the_losses_own_scale_they_are_not(monkeypatch):
    """Another: the solver's absolute gap, which cannot be set."""
    monkeypatch.setattr(allocation, "RANGE", 1e-3)
    assert max(trapped(1e-4)) > 1e-6


def test_fixed_choices_keep_their_width():
    loss = {"a": {2: 5.0}, "b": {2: 1.0, 4: 0.0}}
    prices = free_prices(square(10, 8, (2,)), square(10, 8, (2, 4)))
    found = allocate(loss, prices, Budget(bitops=200))
    assert (found.bits, found.loss, found.price) == ({"a": 2, "b": 4}, 5.0, Price(bitops=200, size_bytes=6))


def test_equal_losses_take_any_width_inside():
    loss = {"a": {2: 0.0, 4: 0.0}}
    found = allocate(loss, free_prices(square(10, 8, (2, 4))), Budget(size_bytes=2))
    assert (found.bits, found.loss, found.bound) == ({"a": 2}, 0.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(nets())
def test_the_frontier_is_what_none_beats(net):
    loss, prices = net
    found = frontier(loss, prices)
    points = [(prices.total(bits).bitops, loss_of(loss, bits)) for bits in every(prices)]
    expected, best = [], math.inf
    for spent, lost in sorted(points):
        if lost < best - 1e-12:
            expected.append((spent, lost))
            best = lost
    close = [(each.price.bitops, each.loss) for each in found]
    distinct = [p for i, p in enumerate(close) if i == 0 or p[1] < close[i - 1][1] - 1e-12]
    assert [spent for spent, _ in distinct] == [spent for spent, _ in expected]
    assert [lost for _, lost in distinct] == pytest.approx([lost for _, lost in expected], abs=1e-9)
    for each in found:
        assert each.price == prices.total(each.bits)
        assert each.loss == pytest.approx(loss_of(loss, each.bits), abs=1e-9)
    for one, other in pairwise(found):
        assert one.price.bitops < other.price.bitops
        assert one.loss > other.loss


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_uniform_nets_lie_on_the_frontier_or_above(data):
    count = data.draw(st.integers(1, 5))
    prices = free_prices(*(square(data.draw(MACS), 8) for _ in range(count)))
    loss = {name: {bits: data.draw(LOSS) for bits in (2, 3, 4)} for name in prices.choices}
    points = frontier(loss, prices)
    for bits in (2, 3, 4):
        net = free_space(*((2, 3, 4),) * count).uniform(bits)
        cost = prices.total(net).bitops
        assert min(each.loss for each in points if each.price.bitops <= cost) <= loss_of(loss, net) + 1e-9


def test_the_frontier_and_the_optimum_agree():
    loss, prices = near_ties(4)
    for each in frontier(loss, prices)[::5]:
        assert allocate(loss, prices, Budget(bitops=each.price.bitops)).loss == pytest.approx(each.loss, rel=1e-9)


def test_a_budget_below_the_cheapest_says_the_range():
    loss, prices = near_ties(3)
    with pytest.raises(ValueError, match=r"a budget of 1 bit-operations: this net takes .* at least"):
        allocate(loss, prices, Budget(bitops=1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("asked", [frontier, lambda loss, prices: allocate(loss, prices, Budget(bitops=10**9))])
def test_what_is_not_finite_is_named(asked, value):
    loss = {"a": {2: 1.0, 4: value}}
    with pytest.raises(ValueError, match=f"the measure of 'a' at 4 bits is {value}: expected finite numbers"):
        asked(loss, free_prices(square(10, 8, (2, 4))))


@pytest.mark.parametrize("loss", [{"b": {2: 0.0, 4: 0.0}}, {"a": {2: 0.0}}, {}])
def test_losses_of_another_space_are_refused(loss):
    prices = free_prices(square(10, 8, (2, 4)))
    with pytest.raises(ValueError, match="what was measured and what is priced are other layers or widths"):
        allocate(loss, prices, Budget(bitops=10**9))
    with pytest.raises(ValueError, match="other layers or widths"):
        frontier(loss, prices)


def test_a_solver_that_gives_up_is_an_error(monkeypatch):
    monkeypatch.setattr(allocation, "OPTIONS", {"time_limit": 0.0, "presolve": False})
    with pytest.raises(RuntimeError, match=r"the solver proved no optimum: .*[Tt]ime"):
        allocate(*near_ties(), Budget(bitops=200_000_000))
