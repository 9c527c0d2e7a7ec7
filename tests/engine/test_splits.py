import pytest
import torch

from flatbit.data.sequential import Sequential
from flatbit.data.stream import StreamData
from flatbit.engine.record import read_run
from flatbit.engine.splits import Splits

from .cases import FLOAT, ran, recipe, shades


def samples(batches):
    return [tuple(x.flatten().tolist()) for batch, _ in batches for x in batch]


def test_held_out_samples_are_neither_trained_on_nor_changed():
    data = shades()
    rest, held = Splits(held_out=7).of(data)
    trained = samples(rest.train_batches(1, seed=0, augment=False))
    watched = samples(held.test_batches(5))
    assert (len(trained), len(watched)) == (29, 7)
    assert sorted(trained + watched) == sorted(samples(data.train_batches(1, seed=0, augment=False)))
    assert samples(rest.test_batches(5)) == samples(data.test_batches(5))


def test_fewer_tests_are_some_of_the_tests_in_their_order():
    data = shades()
    limited, held = Splits(limit_test=5).of(data)
    assert held is None
    whole, few = samples(data.test_batches(5)), samples(limited.test_batches(5))
    assert few == [sample for sample in whole if sample in few]
    assert (len(few), few != whole[:5]) == (5, True)
    assert samples(limited.train_batches(5, seed=1)) == samples(data.train_batches(5, seed=1))
    with pytest.raises(ValueError, match="limit_test=12: expected fewer than the 12 test samples that there are"):
        Splits(limit_test=12).of(data)


def test_of_a_small_set_a_fifth_is_held_out_and_that_is_said():
    assert Splits(held_out=5).fitted(shades()) == (Splits(held_out=5), None)
    splits, note = Splits(held_out=2000, limit_test=3).fitted(shades())
    assert splits == Splits(held_out=7, limit_test=3)
    assert note == "7 training samples are held out, one in 5"
    assert Splits(limit_test=3).fitted(shades()) == (Splits(limit_test=3), None)


def test_of_a_stream_nothing_is_held_out_and_that_is_said():
    def read(number, item):
        return [item]

    items = [(torch.zeros(1, 2, 2), torch.tensor(0))] * 10
    split = Sequential(items=items, samples=read, size=10, where="train")
    data = StreamData(name="stream", num_classes=1, train=split, test=split, shape=(1, 2, 2), mean=(0.0,), std=(1.0,))
    splits, note = Splits(held_out=2).fitted(data)
    assert splits is None
    assert note.startswith("nothing is held out, so no net is chosen by it: data set 'stream'")
    assert Splits(held_out=2, limit_test=4).fitted(data)[0] == Splits(limit_test=4)


@pytest.mark.parametrize("settings", [{}, {"held_out": 0}, {"limit_test": -1}, {"held_out": True}, {"held_out": 1.5}])
def test_no_count_is_refused(settings):
    with pytest.raises(ValueError, match=r"cannot act|expected 1 or more"):
        Splits(**settings)


def test_a_recipe_keeps_them(tmp_path):
    done = ran(recipe(FLOAT, splits=Splits(held_out=3)), tmp_path)
    assert read_run(tmp_path).record.recipe.splits == done.record.recipe.splits == Splits(held_out=3)
