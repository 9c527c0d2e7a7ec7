import pytest
import torch

from flatbit.data.held_out import fewer_tests, held_out
from flatbit.data.sequential import Sequential
from flatbit.data.stream import StreamData

from .cases import Numbered
from .cases import numbered as in_memory


def streamed(train, test=5):
    return StreamData(
        name="numbered", num_classes=100, train=Numbered(train), test=Numbered(test), shape=(1, 2, 2), mean=(0.0,),
        std=(1.0,),
    )  # fmt: skip


def numbers(data):
    """The labels of all training samples, which say which they are."""
    return [int(y) for _, y in data.train_batches(1, seed=0, augment=False).epoch(0)]


each_kind = pytest.mark.parametrize("make", [in_memory, streamed])


@each_kind
@pytest.mark.parametrize("count", [1, 9, 22])
def test_the_parts_are_disjoint_and_together_all(make, count):
    rest, held = held_out(make(23), count)
    assert len(numbers(held)) == count
    assert len(numbers(rest)) == 23 - count
    assert sorted(numbers(rest) + numbers(held)) == list(range(23))


@each_kind
def test_samples_keep_their_labels(make):
    for part in held_out(make(23), 9):
        for x, y in part.train_batches(1, seed=0, augment=False).epoch(0):
            assert torch.equal(x[:, 0, 0, 0].round().long(), y)


@each_kind
def test_the_draw_is_random_by_seed_and_both_kinds_draw_alike(make):
    _, held = held_out(make(23), 9)
    assert sorted(numbers(held)) != list(range(9))
    assert sorted(numbers(held)) == sorted(numbers(held_out(in_memory(23), 9)[1]))
    assert sorted(numbers(held)) == sorted(numbers(held_out(make(23), 9, seed=0)[1]))
    assert sorted(numbers(held)) != sorted(numbers(held_out(make(23), 9, seed=1)[1]))


@each_kind
def test_the_test_split_and_the_original_are_as_they_were(make):
    data = make(23)
    before = numbers(data)
    for part in held_out(data, 9):
        tested = [y.tolist() for _, y in part.test_batches(2)]
        assert tested == [y.tolist() for _, y in data.test_batches(2)] == [[0, 1], [2, 3], [4]]
        assert (part.name, part.num_classes, part.image_shape) == (data.name, data.num_classes, data.image_shape)
    assert numbers(data) == before


def test_a_part_of_a_part():
    rest, _ = held_out(streamed(23), 9)
    inner, held = held_out(rest, 4)
    assert sorted(numbers(inner) + numbers(held)) == sorted(numbers(rest))


def test_a_chosen_sample_that_cannot_be_read_keeps_its_name():
    data = StreamData(
        name="numbered", num_classes=100, train=Numbered(6, bad=(4,)), test=Numbered(5), shape=(1, 2, 2), mean=(0.0,),
        std=(1.0,),
    ).with_train(torch.tensor([1, 4]))  # fmt: skip
    with pytest.raises((OSError, ValueError), match="file 4"):
        numbers(data)


@each_kind
@pytest.mark.parametrize("count", [0, -1, 23, 24])
def test_no_such_count(make, count):
    with pytest.raises(ValueError, match=rf"held_out: count={count}: expected 1 to 22 of the 23 training samples"):
        held_out(make(23), count)


def test_an_iterable_has_no_numbers_to_choose_by():
    items = [(torch.full((1, 2, 2), float(i)), torch.tensor(i)) for i in range(6)]
    split = Sequential(items=items, samples=lambda number, item: [item], size=6, where="train")
    data = StreamData(
        name="mine", num_classes=9, train=split, test=split, shape=(1, 2, 2), mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"'mine' comes as a stream whose samples have no numbers: .* held out"):
        held_out(data, 2)


@each_kind
def test_fewer_tests_are_drawn_at_random_and_keep_their_order(make):
    data = make(7, 20)
    few = [int(y) for _, y in fewer_tests(data, 6).test_batches(1)]
    assert len(few) == 6
    assert few == sorted(few) != list(range(6))
    assert numbers(fewer_tests(data, 6)) == numbers(data)
    for count in (0, 20):
        with pytest.raises(ValueError, match=f"fewer_tests: count={count}: expected 1 to 19 of the 20 test samples"):
            fewer_tests(data, count)


@each_kind
def test_swapped_splits_are_in_each_others_place(make):
    data = make(7, 20)
    assert numbers(data.swapped()) == [int(y) for _, y in data.swapped().train_batches(1, seed=0, augment=False)]
    assert [int(y) for _, y in data.swapped().test_batches(1)] == list(range(7))
    assert data.swapped().train_batches(1, seed=0).num_samples == 20
