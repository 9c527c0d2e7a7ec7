import itertools
from dataclasses import replace

import pytest
import torch

from flatbit.data.augment import Augment
from flatbit.data.batches import generator
from flatbit.data.sequential import Sequential, SequentialBatches
from flatbit.data.stream import StreamData

from .cases import Numbered


def pairs(number, item):
    return [(torch.full((1, 2, 2), float(value)), torch.tensor(value)) for value in item]


def numbered(items=((0, 1, 2), (3, 4, 5, 6), (7,)), size=8):
    split = Sequential(items=items, samples=pairs, size=size, where="train")
    return StreamData(
        name="numbered", num_classes=9, train=split, test=split, shape=(1, 2, 2), mean=(0.0,), std=(1.0,), augment=None
    )


def labels(batches, epoch=0, start=0):
    return [y.tolist() for _, y in batches.epoch(epoch, start)]


@pytest.mark.parametrize("start", [0, 1, 2])
def test_batches_are_regrouped_and_can_begin_at_a_step(start):
    batches = numbered().train_batches(3, seed=0)
    assert isinstance(batches, SequentialBatches)
    assert len(batches) == 2
    assert labels(batches, 5, start) == [[0, 1, 2], [3, 4, 5]][start:]


def test_test_batches_keep_every_sample():
    batches = numbered().test_batches(3)
    assert labels(batches) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert len(batches) == 3


def test_inputs_at_some_places():
    split = numbered().train
    assert [float(x[0, 0, 0]) for x in split.at([6, 0, 6])] == [6, 0, 6]


@pytest.mark.parametrize("size", [7, 9])
def test_another_number_than_before_is_an_error(size):
    with pytest.raises(ValueError, match=f"train gave 8 samples, and {size} when it was read first"):
        labels(numbered(size=size).train_batches(2, seed=0))


def test_batch_size_and_start_are_checked():
    with pytest.raises(ValueError, match="batch_size=0"):
        numbered().train_batches(0, seed=0)
    with pytest.raises(ValueError, match="an epoch of 2 batches cannot begin at step 3"):
        labels(numbered().train_batches(3, seed=0), 0, 3)


def test_splits_may_be_of_two_kinds():
    data = StreamData(
        name="mixed", num_classes=9, train=numbered().train, test=Numbered(4), shape=(1, 2, 2), mean=(0.0,), std=(1.0,)
    )
    assert labels(data.test_batches(3)) == [[0, 1, 2], [3]]
    assert labels(data.train_batches(8, seed=0)) == [list(range(8))]


def test_what_goes_on_for_ever_the_second_time_is_noticed():
    endless = replace(numbered().train, items=itertools.cycle([(0, 1, 2)]))
    with pytest.raises(ValueError, match="train gave 9 samples, and 8 when it was read first"):
        list(endless.read(0))


def test_batches_are_augmented_from_seed_epoch_and_step():
    augment = Augment(pad=1, flip=True, cutout=1)
    data = replace(numbered(), augment=augment)
    plain = [x for x, _ in data.train_batches(3, seed=4, augment=False).epoch(2)]
    for start in (0, 1):
        for step, (x, _) in enumerate(data.train_batches(3, seed=4).epoch(2, start), start):
            draws = augment.draw(3, (1, 2, 2), generator(4, 2, step))
            assert torch.equal(x, augment.apply(plain[step], draws))


@pytest.mark.gpu
def test_batches_on_a_device_are_those_of_the_cpu(device):
    data = replace(numbered(), augment=Augment(pad=1, flip=True, cutout=1))
    pairs = zip(*(data.train_batches(3, seed=1, device=where).epoch(2) for where in (device, "cpu")), strict=True)
    for (x, y), (x_cpu, y_cpu) in pairs:
        assert x.device.type == y.device.type == device
        assert torch.equal(x.cpu(), x_cpu)
        assert torch.equal(y.cpu(), y_cpu)
