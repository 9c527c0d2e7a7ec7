from itertools import count, cycle, repeat

import pytest

from flatbit.nonempty import nonempty


def test_every_batch_comes_once_and_in_order():
    assert list(nonempty([1, 2, 3], "somebody")) == [1, 2, 3]
    assert list(nonempty(iter([None]), "somebody")) == [None]


def test_only_the_first_is_fetched_at_once():
    fetched = []

    def batches():
        for number in range(3):
            fetched.append(number)
            yield number

    stream = nonempty(batches(), "somebody")
    assert fetched == [0]
    assert [next(stream), next(stream)] == [0, 1]
    assert fetched == [0, 1]


@pytest.mark.parametrize("used_up", [[], iter(()), (number for number in ())])
def test_none_is_an_error_before_anything_is_done(used_up):
    with pytest.raises(ValueError, match="hessian got no batches: the iterable is empty, or was used up before"):
        nonempty(used_up, "hessian")


@pytest.mark.parametrize("endless", [cycle([1]), repeat(1), (1 for _ in count())])
def test_so_many_as_are_asked_for_come_of_what_never_ends(endless):
    assert list(nonempty(endless, "somebody", 3)) == [1, 1, 1]


def test_no_more_is_fetched_than_asked_for():
    numbers = count()
    assert list(nonempty(numbers, "somebody", 2)) == [0, 1]
    assert next(numbers) == 2


def test_what_never_ends_is_an_error_where_all_is_asked_for():
    with pytest.raises(ValueError, match="hessian: a cycle never ends: say how many to take with num_batches="):
        nonempty(cycle([1]), "hessian")
    with pytest.raises(
        ValueError, match="hessian: the iterable states no length and seems endless, after 10,000 items"
    ):
        list(nonempty(count(), "hessian"))
