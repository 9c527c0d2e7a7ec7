from itertools import chain

import numpy as np
import pytest
import torch

from flatbit.data import stream
from flatbit.data.augment import Augment
from flatbit.data.batches import Data, generator
from flatbit.data.stream import StreamData, default_workers

from .cases import Numbered
from .cases import numbered as in_memory

FORKING = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def numbered(train=23, test=5, bad=(), **settings):
    facts = {"shape": (1, 2, 2), "mean": (0.0,), "std": (1.0,)} | settings
    return StreamData(name="numbered", num_classes=100, train=Numbered(train, bad), test=Numbered(test, bad), **facts)


def labels(batches, epoch=0, start=0):
    return [y.tolist() for _, y in batches.epoch(epoch, start)]


def same(some, others):
    return all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(list(some), list(others), strict=True)
    )


def test_it_is_data():
    data = numbered()
    assert isinstance(data, Data)
    assert data.image_shape == (1, 2, 2)


def test_an_epoch_sees_every_sample_once_but_the_dropped_tail():
    batches = numbered().train_batches(4, seed=0)
    seen = labels(batches, epoch=3)
    flat = list(chain(*seen))
    assert len(batches) == len(seen) == 5
    assert len(set(flat)) == len(flat) == 20
    assert batches.num_samples == 23
    assert flat != sorted(flat)


def test_order_is_that_of_sets_in_memory():
    assert labels(numbered().train_batches(4, seed=7), 2) == labels(in_memory(23).train_batches(4, seed=7), 2)


def test_test_batches_are_all_samples_in_order_as_they_are():
    batches = numbered().test_batches(2)
    assert labels(batches) == labels(batches, epoch=3) == [[0, 1], [2, 3], [4]]
    assert len(batches) == 3
    for x, y in batches:
        assert torch.equal(x[:, 0, 0, 0], y.float())


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_starting_at_a_step_reads_nothing_before_and_gives_the_same(start):
    batches = numbered().train_batches(4, seed=1)
    whole = list(batches.epoch(2))
    samples = batches._reader.samples
    read, original = [], Numbered.read
    try:
        Numbered.read = lambda self, index, stream: read.append(index) or original(self, index, stream)
        rest = list(batches.epoch(2, start))
    finally:
        Numbered.read = original
    assert samples.n == 23
    assert same(rest, whole[start:])
    assert len(read) == 4 * (5 - start)


@pytest.mark.parametrize("start", [-1, 6])
def test_an_epoch_does_not_begin_after_its_end(start):
    with pytest.raises(ValueError, match="cannot begin at step"):
        next(numbered().train_batches(4, seed=1).epoch(0, start))


@FORKING
def test_workers_change_nothing():
    here, there = numbered(workers=0), numbered(workers=2)
    for epoch in (0, 1):
        assert same(here.train_batches(4, seed=3).epoch(epoch), there.train_batches(4, seed=3).epoch(epoch))
    assert same(here.test_batches(2), there.test_batches(2))


@FORKING
def test_workers_stay_and_serve_one_epoch_at_a_time():
    batches = numbered(workers=2).train_batches(4, seed=3)
    expected = [list(numbered().train_batches(4, seed=3).epoch(epoch)) for epoch in range(3)]
    first = batches.epoch(0)
    seen = [next(first)]
    assert same(batches.epoch(1), expected[1])  # a second one meanwhile
    seen += list(first)
    assert same(seen, expected[0])
    loader = batches._loader
    half = batches.epoch(2)
    next(half)
    del half  # left in the middle
    assert same(batches.epoch(1, 2), expected[1][2:])
    assert batches._loader is loader


def test_one_loader_serves_all_epochs_in_turn(monkeypatch):
    made, original = [], stream._loader
    monkeypatch.setattr(stream, "_loader", lambda *a, **named: made.append(named["keep"]) or original(*a, **named))
    batches = numbered().train_batches(4, seed=3)
    for epoch in range(3):
        list(batches.epoch(epoch))
    list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    list(batches.epoch(2))
    assert made == [True, False]


@FORKING
def test_an_error_in_a_worker_is_the_error_of_the_sample():
    with pytest.raises(
        ValueError, match=r"^file 3: OSError: damaged\. Mend or remove it, .* skip_bad=True \(--skip-bad\)\n"
    ) as caught:
        list(numbered(bad=(3,), workers=1).test_batches(2))
    assert "in read" in caught.value.__notes__[0]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=FORKING)])
def test_bad_samples_are_left_out_counted_and_listed(workers):
    data = numbered(bad=(1, 3), skip_bad=True, workers=workers)
    message = r"'numbered': left out 2 samples that cannot be read: file 1 \(OSError: damaged\); file 3 \(OSError: dam"
    with pytest.warns(UserWarning, match=message):
        assert labels(data.test_batches(2)) == [[0], [2], [4]]
    assert data.left_out == {"file 1": "OSError: damaged", "file 3": "OSError: damaged"}
    assert labels(data.test_batches(2)) == [[0], [2], [4]]  # said once
    assert data.pictures([1])[0, 0, 0, 0] == data.pictures([0])[0, 0, 0, 0]


def test_many_bad_samples_are_counted_and_the_first_ones_named():
    data = numbered(bad=range(1, 20), skip_bad=True)
    with pytest.warns(
        UserWarning, match=r"left out 19 samples .* file \d+ .*; and 14 more, all in the data's left_out"
    ):
        list(data.train_batches(23, seed=0))
    assert len(data.left_out) == 19


def test_an_epoch_left_in_the_middle_still_says_what_it_left_out():
    epoch = numbered(bad=(0,), skip_bad=True).test_batches(2).epoch(0)
    next(epoch)
    with pytest.warns(UserWarning, match="left out 1 samples"):
        epoch.close()


def test_a_batch_of_bad_samples_only_is_left_out():
    data = numbered(9, 9, bad=(8,), skip_bad=True)
    with pytest.warns(UserWarning, match="left out 1 samples"):
        assert labels(data.test_batches(4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels(data.test_batches(4), start=2) == []  # the rest of an epoch that gave something
    assert sorted(chain(*labels(data.train_batches(1, seed=0)))) == list(range(8))


def test_an_epoch_of_bad_samples_only_is_an_error():
    batches = numbered(bad=range(5), skip_bad=True).test_batches(2)
    message = r"not one sample of a whole epoch of data set 'numbered' can be read: file 0 .*; file 4"
    with pytest.raises(ValueError, match=message), pytest.warns(UserWarning, match="left out 5"):
        list(batches)
    with pytest.raises(ValueError, match=message):
        list(batches)


@pytest.mark.parametrize("workers", [-1, "2", 1.5])
def test_workers_that_make_no_sense_are_refused(workers):
    with pytest.raises(ValueError, match=r"workers=.*: expected a whole number, at least 0"):
        numbered(workers=workers)


def test_augmentation_is_a_function_of_seed_epoch_and_step():
    data = numbered()
    some = data.train_batches(4, seed=1)
    list(some.epoch(0))
    assert same(some.epoch(4), numbered().train_batches(4, seed=1).epoch(4))
    assert not same(some.epoch(4), some.epoch(5))
    plain = data.train_batches(4, seed=1, augment=False)
    for x, y in plain:
        assert torch.equal(x[:, 0, 0, 0], y.float())


def test_whole_batches_are_augmented_too():
    data = numbered(augment=Augment(cutout=2))
    x, _ = next(iter(data.train_batches(20, seed=1)))
    assert (x == 0).any(3).any(2).float().mean() > 0.5
    again = numbered(augment=Augment(cutout=2)).train_batches(4, seed=1)
    assert same(again.epoch(3, 2), list(again.epoch(3))[2:])


def test_whole_batches_are_augmented_from_seed_epoch_and_step():
    augment = Augment(pad=1, flip=True, cutout=1)
    data = numbered(augment=augment)
    for step, (x, y) in enumerate(data.train_batches(4, seed=1).epoch(3)):
        made = [data.train.read(int(index), generator(1, 3, int(index)))[0] for index in y]
        draws = augment.draw(4, (1, 2, 2), generator(1, 3, step))
        assert torch.equal(x, augment.apply(torch.stack(made), draws))


@pytest.mark.gpu
def test_batches_on_a_device_are_those_of_the_cpu(device):
    data = numbered(augment=Augment(pad=1, flip=True, cutout=1))
    pairs = zip(*(data.train_batches(4, seed=1, device=where).epoch(2) for where in (device, "cpu")), strict=True)
    for (x, y), (x_cpu, y_cpu) in pairs:
        assert x.device.type == y.device.type == device
        assert torch.equal(x.cpu(), x_cpu)
        assert torch.equal(y.cpu(), y_cpu)


def test_making_batches_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(numbered().train_batches(4, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_an_error(split):
    with pytest.raises(ValueError, match=f"'numbered': {split} has no samples"):
        numbered(**{split: 0})


def test_batch_size_is_checked_and_cut_to_the_split():
    with pytest.raises(ValueError, match="batch_size=0"):
        numbered().train_batches(0, seed=0)
    assert len(numbered(3).train_batches(8, seed=0)) == 1


def test_pictures_are_bytes():
    none = numbered().pictures(np.array([], dtype=np.int64))  # of a net that misreads nothing
    assert (none.shape, none.dtype) == ((0, *numbered().image_shape), np.uint8)
    found = numbered().pictures(np.array([3, 0]))
    assert (found.dtype, found.shape) == (np.uint8, (2, 1, 2, 2))
    with pytest.raises(ValueError, match="features, not images"):
        numbered(shape=(1,)).pictures([0])


def test_there_is_a_worker_at_least():
    assert 1 <= default_workers() <= 16


@pytest.mark.gpu
def test_batches_go_to_the_device(device):
    data = numbered()
    here, there = data.train_batches(4, seed=2), data.train_batches(4, seed=2, device=device)
    for (x, y), (x_there, y_there) in zip(here, there, strict=True):
        assert x_there.device.type == device
        assert torch.equal(x, x_there.cpu())
        assert torch.equal(y, y_there.cpu())
