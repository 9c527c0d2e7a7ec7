import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from flatbit.data import load
from flatbit.data.augment import Augment
from flatbit.data.batches import VOID, Data, generator
from flatbit.data.joint import JointAugment
from flatbit.data.memory import Images, MemoryData
from flatbit.data.sets.digits import load_digits

from .cases import numbered

SMALL = st.integers(0, 2**31)


def ids(batches, epoch=0, start=0):
    return [y.tolist() for _, y in batches.epoch(epoch, start)]


def same(some, others):
    pairs = list(zip(some, others, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_image_and_label_stay_together():
    for x, y in numbered(23).train_batches(4, seed=1):
        assert torch.equal(x[:, 0, 0, 0], y.float())


@pytest.mark.parametrize(("samples", "size", "steps"), [(24, 4, 6), (23, 4, 5), (3, 8, 1), (1, 1, 1)])
def test_shuffled_epoch_sees_every_sample_once_but_the_dropped_tail(samples, size, steps):
    batches = numbered(samples).train_batches(size, seed=0)
    size = min(size, samples)
    seen = ids(batches, epoch=3)
    flat = list(chain(*seen))
    assert len(batches) == len(seen) == steps
    assert {len(batch) for batch in seen} == {size}
    assert len(set(flat)) == len(flat) == samples - samples % size


def test_the_dropped_tail_differs_between_epochs():
    batches = numbered(23).train_batches(4, seed=0)
    tails = [set(range(23)) - set(chain(*ids(batches, epoch))) for epoch in range(5)]
    assert len({frozenset(tail) for tail in tails}) > 1


@pytest.mark.parametrize("size", [1, 2, 5, 7, 100])
def test_test_batches_are_all_samples_in_order(size):
    batches = numbered(3, test=5).test_batches(size)
    seen = ids(batches)
    assert list(chain(*seen)) == [0, 1, 2, 3, 4]
    assert len(seen) == len(batches) == math.ceil(5 / size)
    assert ids(batches, epoch=4) == seen


@given(seed=SMALL, epoch=st.integers(0, 500), start=st.integers(0, 6))
def test_starting_at_a_step_gives_the_same_remaining_batches(seed, epoch, start):
    batches = numbered(25, augment=Augment(pad=1, flip=True, cutout=2)).train_batches(4, seed=seed)
    whole = list(batches.epoch(epoch))
    assert same(batches.epoch(epoch, start), whole[start:])


def test_batches_are_a_function_of_seed_and_epoch():
    data = numbered(40, augment=Augment(pad=1))
    first, again = data.train_batches(8, seed=7), data.train_batches(8, seed=7)
    list(first.epoch(2))  # what was asked before does not matter
    torch.manual_seed(99)
    assert same(first.epoch(5), again.epoch(5))
    assert ids(first, 0) != ids(first, 1)
    assert ids(first, 0) != ids(data.train_batches(8, seed=8), 0)


def test_making_batches_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(numbered(40, augment=Augment(pad=1, flip=True)).train_batches(8, seed=7))
    assert torch.equal(torch.get_rng_state(), before)


def test_iteration_is_the_first_epoch():
    batches = numbered(20).train_batches(4, seed=0)
    assert same(batches, batches.epoch(0))


def test_augmentation_differs_between_steps_epochs_and_seeds():
    data = numbered(64, augment=Augment(pad=2))

    def shifts(seed, epoch, step):
        x, y = next(data.train_batches(32, seed=seed).epoch(epoch, step))
        return (x != 0).flatten(1), y != 0  # where an image lies in its frame; image 0 is black and does not say

    first, known = shifts(0, 0, 0)
    for seed, epoch, step in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        other, also = shifts(seed, epoch, step)
        assert not torch.equal(first[known & also], other[known & also])


def test_augmentation_can_be_switched_off():
    data = numbered(12, augment=Augment(cutout=4))
    x, y = next(iter(data.train_batches(12, seed=0, augment=False)))
    assert torch.equal(x, y.float().reshape(-1, 1, 1, 1).expand(12, 1, 4, 4))
    x, _ = next(iter(data.train_batches(12, seed=0)))
    assert (x == 0).any(dim=(1, 2, 3)).all()


def test_test_images_are_never_augmented():
    x, y = next(iter(numbered(12, augment=Augment(cutout=4)).test_batches()))
    assert torch.equal(x, y.float().reshape(-1, 1, 1, 1).expand(5, 1, 4, 4))


def test_pixels_are_normalized_per_channel():
    pixels = torch.randint(256, (6, 3, 2, 2), dtype=torch.uint8)
    split = Images(images=pixels, labels=torch.zeros(6, dtype=torch.long))
    mean, std = (0.5, 0.25, 0.1), (0.2, 0.5, 1.0)
    data = MemoryData(name="colours", num_classes=1, train=split, test=split, mean=mean, std=std)
    x, _ = next(iter(data.test_batches()))
    expected = (pixels / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, expected)


def test_images_are_channels_last_in_memory():
    assert next(iter(numbered(4).test_batches()))[0].is_contiguous(memory_format=torch.channels_last)


def test_padding_is_black_before_normalization():
    data = numbered(200, augment=Augment(pad=1), mean=(0.5,))
    x, _ = next(iter(data.train_batches(200, seed=0)))
    assert x.min() == -127.5  # a black pixel, not the mean


@pytest.mark.parametrize("size", [0, -3])
def test_batch_size_is_at_least_one(size):
    with pytest.raises(ValueError, match=f"batch_size={size}: expected at least 1"):
        numbered(4).train_batches(size, seed=0)


def test_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="'numbered': a split of it has no images"):
        numbered(0).train_batches(4, seed=0)


def test_facts():
    data = numbered(4)
    assert isinstance(data, Data)
    assert data.image_shape == (1, 4, 4)
    assert data.task == "classification"


def test_pictures_are_the_test_images():
    pictures = numbered(4, test=6).pictures([3, 1])
    assert pictures.dtype == np.uint8
    assert pictures.shape == (2, 1, 4, 4)
    assert pictures[:, 0, 0, 0].tolist() == [3, 1]


def test_the_set_is_not_copied_where_it_is_channels_last_already():
    data = numbered(8)
    pixels = data.train.images.contiguous(memory_format=torch.channels_last)
    data = replace(data, train=replace(data.train, images=pixels))
    assert data.train_batches(2, seed=0).images.data_ptr() == pixels.data_ptr()


@pytest.mark.parametrize("start", [-1, 6])
def test_an_epoch_does_not_begin_after_its_end(start):
    with pytest.raises(ValueError, match=f"an epoch of 5 batches cannot begin at step {start}"):
        next(numbered(20).train_batches(4, seed=0).epoch(0, start))


def features(n=6):
    split = Images(images=torch.arange(2.0 * n).reshape(n, 2), labels=torch.zeros(n, dtype=torch.long))
    return MemoryData(name="features", num_classes=2, train=split, test=split, mean=(0.0, 1.0), std=(0.5, 1.0))


def test_features_are_normalized_and_not_divided_by_255():
    data = features()
    assert data.image_shape == (2,)
    x, y = next(iter(data.test_batches()))
    assert y.dtype == torch.int64
    assert torch.equal(x, (data.test.images - torch.tensor([0.0, 1.0])) / torch.tensor([0.5, 1.0]))
    assert torch.equal(next(iter(data.train_batches(6, seed=1)))[0].sum(0), x.sum(0))


def test_features_have_no_pictures():
    with pytest.raises(ValueError, match="'features' has features, not images"):
        features().pictures([0])


def streets(n=5, **settings):
    pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 3, 6, 8).contiguous()
    masks = pixels[:, 0].clone()
    masks[:, 0] = VOID
    split = Images(images=pixels, labels=masks)
    facts = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "augment": JointAugment(fill=(9.0,) * 3)} | settings
    return MemoryData(name="streets", num_classes=n, train=split, test=split, task="segmentation", **facts)


def test_masks_are_given_as_int64_and_stay_with_their_images():
    for x, y in streets().train_batches(2, seed=0):
        assert y.dtype == torch.int64
        assert y.shape == (2, 6, 8)
        known = y != VOID
        assert known.any()
        assert torch.equal(x[:, 0][known], y[known].float())
    x, y = next(iter(streets().test_batches()))
    assert (y[:, 0] == VOID).all()
    assert torch.equal(y[:, 1:], x[:, 0, 1:].long())


def test_joint_augmentation_goes_on_from_a_step_too():
    batches = streets().train_batches(2, seed=3)
    assert same(batches.epoch(4, 1), list(batches.epoch(4))[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 1, 256])}, "test: a label is 256, expected 0..255"),
        ({"labels": torch.tensor([0, -1, 2])}, "test: a label is -1, expected 0..255"),
        ({"labels": torch.zeros(3)}, "labels are torch.float32"),
        ({"labels": torch.zeros(4, dtype=torch.long)}, r"labels are torch.int64 \(4,\), expected torch.int64 \(3,\)"),
        ({"images": torch.zeros(3, 1, 4, 5, dtype=torch.uint8)}, r"images are torch.uint8 \(3, 1, 4, 5\)"),
        ({"images": torch.zeros(3, 1, 4, 4, dtype=torch.int16)}, "images are torch.int16"),
    ],
)
def test_splits_that_do_not_fit_are_refused(change, message):
    data = numbered(4, test=3)
    with pytest.raises(ValueError, match=message):
        replace(data, test=replace(data.test, **change))


def test_task_and_augmentation_go_together():
    with pytest.raises(ValueError, match="segmentation does not go with Augment"):
        streets(augment=Augment())


def test_masks_are_checked_but_for_void():
    with pytest.raises(ValueError, match=r"train: a label is 4, expected 0\.\.3"):
        replace(streets(), num_classes=4)


def test_shuffling_is_uniform_enough():
    batches = numbered(4).train_batches(4, seed=0)
    first = torch.tensor([ids(batches, epoch)[0][0] for epoch in range(2000)]).bincount(minlength=4)
    assert first.min() > 400  # of 500 expected, five standard deviations


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "item", "is_nonzero", "unique"}


class Recorded(TorchDispatchMode):
    """The names of the operations that run within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "batches",
    [
        lambda: numbered(24, augment=Augment(pad=1, flip=True, cutout=2)).train_batches(4, seed=0),
        lambda: numbered(24, test=9).test_batches(4),
        lambda: streets(6).train_batches(2, seed=0),
        lambda: streets(6).test_batches(2),
    ],
    ids=["augmented", "plain", "joint", "joint, plain"],
)
def test_a_batch_draws_nothing_and_asks_nothing_of_its_device(batches):
    steps = batches().epoch(0)
    next(steps)
    with Recorded() as recorded:
        next(steps)
    assert "index_select" in recorded.names
    assert not recorded.names & WAITING
    assert not {name for name in recorded.names if "rand" in name or name in ("uniform_", "random_")}


def test_the_parts_of_an_epoch_come_from_seed_and_epoch_alone():
    augment = Augment(pad=2, flip=True, cutout=2)
    data = numbered(40, augment=augment)
    drawn = generator(7, 3)
    order = torch.randperm(40, generator=drawn)
    draws = augment.draw(40, (1, 4, 4), drawn)
    for size in (8, 15):
        for step, (x, y) in enumerate(data.train_batches(size, seed=7).epoch(3)):
            part = slice(step * size, (step + 1) * size)
            assert torch.equal(y, order[part])
            assert torch.equal(x, augment.apply(data.train.images[order[part]], draws[part]).float())


def too_large(monkeypatch):
    """As if nothing fitted the device: what is then left in host memory."""
    monkeypatch.setattr("flatbit.data.residence.free_bytes", lambda device: 1)


@pytest.mark.parametrize("data", [lambda: numbered(25, augment=Augment(pad=1, flip=True)), streets])
def test_a_set_that_does_not_fit_gives_the_same_batches_from_host_memory(monkeypatch, data):
    data = data()
    resident = data.train_batches(2, seed=3)
    too_large(monkeypatch)
    with pytest.warns(UserWarning, match=f"data set '{data.name}': a split of .* stays in host memory"):
        streamed = data.train_batches(2, seed=3)
    assert same(streamed.epoch(2), resident.epoch(2))
    assert same(streamed.epoch(2, 1), list(resident.epoch(2))[1:])


@pytest.mark.gpu
@pytest.mark.parametrize("fits", [True, False])
def test_batches_on_a_device_are_those_of_the_cpu(device, monkeypatch, fits):
    data = numbered(25, augment=Augment(pad=1, flip=True, cutout=2), mean=(0.3,), std=(0.7,))
    if fits:
        batches = data.train_batches(4, seed=3, device=device)
    else:
        too_large(monkeypatch)
        with pytest.warns(UserWarning, match="stays in host memory"):
            batches = data.train_batches(4, seed=3, device=device)
    assert batches.images.device.type == (device if fits else "cpu")
    for start in (0, 2):
        pairs = zip(batches.epoch(1, start), data.train_batches(4, seed=3).epoch(1, start), strict=True)
        for (x, y), (x_cpu, y_cpu) in pairs:
            assert x.device.type == y.device.type == device
            assert torch.equal(x.cpu(), x_cpu)
            assert torch.equal(y.cpu(), y_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("data", [lambda: numbered(24, augment=Augment(pad=1, flip=True, cutout=2)), streets])
def test_no_batch_waits_for_the_device(device, data):
    steps = data().train_batches(2, seed=0, device=device).epoch(0)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_grey_images_repeat_to_the_channels_asked_for():
    from flatbit import data

    grey, coloured = data.load("digits"), data.load("digits", channels=3)
    assert coloured.image_shape == (3, 8, 8)
    x, y = next(iter(grey.test_batches(16)))
    x3, y3 = next(iter(coloured.test_batches(16)))
    assert torch.equal(y, y3)
    assert all(torch.equal(x3[:, c], x[:, 0]) for c in range(3))
    assert coloured.with_channels(3) is coloured
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\): cannot make 4 channels"):
        coloured.with_channels(4)


@pytest.mark.parametrize("channels", [-1, 0, "3"])
@pytest.mark.parametrize("data", [numbered(4), streets()], ids=["grey", "coloured"])
def test_channels_that_make_no_sense_are_refused(data, channels):
    with pytest.raises(ValueError, match=r"channels=.*: expected a whole number, at least 1"):
        data.with_channels(channels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named(value):
    data = features()
    images = data.test.images.clone()
    images[4, 1] = value
    with pytest.raises(ValueError, match=r"'features', test: sample 4 has NaN or infinite values"):
        replace(data, test=replace(data.test, images=images))


def test_what_was_left_out_stays_noted():
    assert numbered(4).left_out == {}
    assert numbered(4, left_out={"a.png": "damaged"}).with_channels(3).left_out == {"a.png": "damaged"}


def test_an_image_file_is_prepared_as_test_images(tmp_path):
    data = load_digits()
    x, _ = next(iter(data.test_batches(1)))
    Image.fromarray(data.test.images[0, 0].numpy()).convert("RGB").save(tmp_path / "a.png")
    assert torch.equal(data.from_file(tmp_path / "a.png"), x[0])
    assert torch.equal(data.with_channels(3).from_file(tmp_path / "a.png"), x[0].repeat(3, 1, 1))
    Image.fromarray(data.test.images[0, 0].numpy().repeat(3, 1)).resize((24, 8)).save(tmp_path / "wide.png")
    assert data.from_file(tmp_path / "wide.png").shape == (1, 8, 8)


def test_features_are_made_from_no_file(tmp_path):
    assert load("spirals").from_file(tmp_path / "a.png") is None
