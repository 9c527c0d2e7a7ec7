from itertools import chain, count, cycle, islice, repeat

import pytest
from torch.utils.data import DataLoader, IterableDataset

from flatbit import bounded as module
from flatbit.bounded import bounded, length_of


class Stated:
    """So many items as it says, and so many as it gives."""

    def __init__(self, stated, given):
        self.stated, self.given = stated, given

    def __len__(self):
        return self.stated

    def __iter__(self):
        return iter(self.given)


class Unstated(IterableDataset):
    def __iter__(self):
        return iter(range(7))


class TooMany(Unstated):
    def __len__(self):
        return 10**30


class Refusing(Unstated):
    def __len__(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "make", [lambda: [1, 2], tuple, lambda: iter([1]), lambda: repeat(1, 4), lambda: Stated(2, "abc")]
)
def test_what_ends_comes_whole(make):
    assert list(bounded(make(), "somebody", most=9)) == list(make())


@pytest.mark.parametrize("items", [cycle([1]), repeat(1)])
def test_what_is_endless_by_its_kind_is_refused_at_once(items):
    with pytest.raises(ValueError, match=r"evaluate: a (cycle|repeat) never ends: say how many to take with num_"):
        next(bounded(items, "evaluate"))


def test_without_a_length_there_is_a_bound():
    assert list(bounded(islice(count(), 5), "somebody", most=5)) == list(range(5))
    for endless in (count(), (number for number in count()), chain(cycle([1]))):
        with pytest.raises(ValueError, match=r"somebody: the iterable states no length and seems .* 5 items: look"):
            list(bounded(endless, "somebody", most=5, mend="look"))


def test_a_stated_length_is_the_bound_with_some_grace(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 3)
    assert list(bounded(Stated(10, range(13)), "somebody", most=1)) == list(range(13))
    with pytest.raises(ValueError, match="states a length of 10 and seems endless, after 13 items"):
        list(bounded(Stated(10, count()), "somebody"))


def test_nothing_is_fetched_ahead():
    fetched = []
    stream = bounded((fetched.append(number) for number in count()), "somebody")
    assert fetched == []
    next(stream)
    assert fetched == [0]


@pytest.mark.parametrize(
    ("items", "length"),
    [
        ([1, 2], 2),
        (repeat(1, 3), 3),
        (repeat(1), None),
        (cycle([1]), None),
        ((number for number in [1]), None),
        (DataLoader(range(5), batch_size=2), 3),
        (DataLoader(Unstated(), batch_size=2), None),
        (Refusing(), None),
        (TooMany(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_length_is_known_where_it_is_stated(items, length):
    assert length_of(items) == length
