import pytest

from flatbit.search.budget import Budget
from flatbit.search.costs import Price

from .cases import free_prices, free_space

SPACE = free_space((2, 3, 4), (2, 4))
PRICES = free_prices(
    {2: (400, 10), 3: (900, 15), 4: (1600, 20)}, {2: (4000, 100), 4: (16000, 200)}, fixed=(1_000_000, 5)
)


@pytest.mark.parametrize(
    ("text", "bitops", "size_bytes"),
    [
        ("392M-bitops", 392_000_000, None), ("392Mbitops", 392_000_000, None), ("14.368G-bitops", 14_368_000_000, None),
        ("1500-bitops", 1500, None), ("60kB", None, 60_000), ("60KB", None, 60_000), ("1.5MB", None, 1_500_000),
        ("123bytes", None, 123), ("123B", None, 123), ("2kbytes", None, 2000),
        ("3bits", 1_004_900, None), ("3-bits", 1_004_900, None), ("4bit", 1_017_600, None), ("2bits", 1_004_400, None),
        ("1M-bitops,60kB", 1_000_000, 60_000), (" 60kB , 4bits ", 1_017_600, 60_000),
    ],
)  # fmt: skip
def test_every_form(text, bitops, size_bytes):
    assert Budget.parse(text, PRICES, SPACE) == Budget(bitops=bitops, size_bytes=size_bytes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--budget : '': expected as 392M-bitops"),
        ("392", "'392': expected as 392M-bitops, 60kB, 3bits"),
        ("392M", "'392M': expected as"),
        ("-3bits", "'-3bits': expected as"),
        ("1e6bitops", "'1e6bitops': expected as"),
        ("60kB,", "--budget 60kB,: '': expected as"),
        ("60kB,61kB", "two budgets of one kind"),
        ("3bits,392M-bitops", "two budgets of one kind"),
        ("3.5bits", "--budget 3.5bits: a uniform net has 2 or 3 or 4 bits here"),
        ("3kbits", "--budget 3kbits: a uniform net has 2 or 3 or 4 bits here"),
        ("8bits", "--budget 8bits: a uniform net has 2 or 3 or 4 bits here"),
    ],
)
def test_what_is_no_budget(text, words):
    with pytest.raises(ValueError, match=words):
        Budget.parse(text, PRICES, SPACE)


def test_a_budget_of_nothing():
    with pytest.raises(ValueError, match="a budget of nothing: expected as 392M-bitops"):
        Budget()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(bitops=1_004_399), "a budget of 1,004,399 bit-operations: this net takes 1,004,400 at least, 1,017,60"),
        (Budget(size_bytes=114), "a budget of 114 bytes: this net takes 115 at least, 225 at most"),
        (Budget(bitops=2_000_000, size_bytes=0), "a budget of 0 bytes: this net takes 115 at least"),
        (Budget(bitops=0, size_bytes=1000), "a budget of 0 bit-operations: this net takes 1,004,400 at least"),
    ],
)
def test_a_budget_below_the_cheapest_says_the_range(budget, words):
    with pytest.raises(ValueError, match=words):
        budget.check(PRICES)


def test_the_cheapest_and_more_than_all_are_budgets():
    Budget(bitops=1_004_400, size_bytes=115).check(PRICES)
    Budget(bitops=10**12).check(PRICES)


def test_what_it_holds():
    both = Budget(bitops=100, size_bytes=10)
    assert both.holds(Price(bitops=100, size_bytes=10))
    assert not both.holds(Price(bitops=101, size_bytes=10))
    assert not both.holds(Price(bitops=100, size_bytes=11))
    assert Budget(bitops=100).holds(Price(bitops=100, size_bytes=10**9))
    assert Budget(size_bytes=10).holds(Price(bitops=10**9, size_bytes=10))


def test_it_speaks():
    assert str(Budget(bitops=392_053_000, size_bytes=60_000)) == "392.053 M bit-operations, 60,000 bytes"
    assert str(Budget(size_bytes=7)) == "7 bytes"
