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
