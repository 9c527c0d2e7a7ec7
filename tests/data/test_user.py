import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from flatbit.data import About, user, user_data
from flatbit.data.augment import Augment
from flatbit.data.batches import VOID

FORKING = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def tensors(n=10, classes=3, dtype=torch.uint8):
    """Image i is filled with i, its label is i modulo the classes."""
    images = torch.arange(n).to(dtype).reshape(n, 1, 1, 1).expand(n, 3, 4, 4).contiguous()
    return images, torch.arange(n) % classes


def dataset(n=10, **facts):
    return TensorDataset(*tensors(n, **facts))


class Pairs(Dataset):
    """A Dataset of pairs, made as given."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.full((3, 4, 4), i, dtype=torch.uint8), i % 3) for i in range(10)])


def seen(batches, epoch=0, start=0):
    return [(x, y) for x, y in batches.epoch(epoch, start)]


def same(some, others):
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(some, others, strict=True))


FORMS = {
    "a Dataset": dataset,
    "a list of samples": lambda: [(x, int(y)) for x, y in dataset()],
    "a list of numpy samples": lambda: [(x.numpy(), np.int64(y)) for x, y in dataset()],
    "a list of batches": lambda: list(DataLoader(dataset(), batch_size=3)),
    "a DataLoader": lambda: DataLoader(dataset(), batch_size=3),
    "a DataLoader of samples": lambda: DataLoader(dataset(), batch_size=None),
    "an IterableDataset": Endless,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form):
    data = user_data(FORMS[form](), FORMS[form](), num_classes=3)
    assert (data.image_shape, data.num_classes, data.task, data.name) == ((3, 4, 4), 3, "classification", "user")
    test = seen(data.test_batches(4))
    assert [len(y) for _, y in test] == [4, 4, 2]
    images, labels = tensors()
    torch.testing.assert_close(torch.cat([x for x, _ in test]), images / 255)
    assert torch.equal(torch.cat([y for _, y in test]), labels)
    train = data.train_batches(4, seed=0)
    assert train.num_samples == 10
    assert len(train) == len(seen(train)) == 2
    assert same(seen(train, 3, 1), seen(train, 3)[1:])
    assert np.array_equal(data.pictures([7, 2]), images[[7, 2]].numpy())


def test_map_style_is_shuffled_and_iterables_keep_their_order():
    shuffled = user_data(dataset(), dataset(), num_classes=3, std=(1 / 255,) * 3).train_batches(10, seed=1)
    order = seen(shuffled)[0][0][:, 0, 0, 0].round().long().tolist()
    assert order != sorted(order)
    assert sorted(order) == list(range(10))
    kept = user_data(Endless(), dataset(), num_classes=3, std=(1 / 255,) * 3).train_batches(10, seed=1)
    assert seen(kept)[0][0][:, 0, 0, 0].round().long().tolist() == list(range(10))


def test_floats_are_taken_as_they_are_or_normalized():
    images, labels = tensors(dtype=torch.float64)
    data = user_data(TensorDataset(images, labels), TensorDataset(images, labels), num_classes=3)
    x, _ = next(iter(data.test_batches(10)))
    assert x.dtype == torch.float32
    assert torch.equal(x, images.float())
    data = user_data(
        dataset(dtype=torch.float32), dataset(dtype=torch.float32), num_classes=3, mean=[1] * 3, std=[2] * 3
    )
    assert torch.equal(next(iter(data.test_batches(10)))[0], (images.float() - 1) / 2)


def test_features_are_inputs_too():
    source = TensorDataset(torch.rand(6, 5), torch.zeros(6, dtype=torch.long))
    data = user_data(source, source, num_classes=1)
    assert data.image_shape == (5,)
    with pytest.raises(ValueError, match="features, not images"):
        data.pictures([0])


def test_segmentation():
    images = torch.rand(5, 3, 4, 6)
    masks = torch.randint(0, 4, (5, 4, 6))
    masks[:, 0] = VOID
    source = TensorDataset(images, masks)
    for form in (source, DataLoader(source, batch_size=2)):
        data = user_data(form, source, num_classes=4, about=About(task="segmentation"))
        assert data.task == "segmentation"
        x, y = next(iter(data.test_batches(5)))
        assert torch.equal(x, images)
        assert torch.equal(y, masks)
    with pytest.raises(ValueError, match=r"test\[0\]: label 3, expected 0\.\.2"):
        user_data(
            TensorDataset(images, masks % 2),
            TensorDataset(images, torch.full_like(masks, 3)),
            num_classes=3,
            about=About(task="segmentation"),
        )
    with pytest.raises(ValueError, match=r"train\[0\]: the mask is \(4, 5\), its image \(3, 4, 6\)"):
        user_data(TensorDataset(images, masks[:, :, :5]), source, num_classes=4, about=About(task="segmentation"))


def test_whole_batches_are_augmented_where_asked():
    data = user_data(dataset(40), dataset(), num_classes=3, augment=Augment(cutout=4))
    assert (next(iter(data.train_batches(40, seed=0)))[0] == 0).any(3).any(2).all()
    x, y = next(iter(data.train_batches(40, seed=0, augment=False)))
    assert torch.equal((x[:, 0, 0, 0] * 255).round().long() % 3, y)


class Noisy(Dataset):
    """Augments with every global random state there is."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + float(torch.rand(1))  # noqa: NPY002
        return torch.full((1, 2, 2), noise), index


@FORKING
def test_random_transforms_of_a_dataset_follow_from_seed_epoch_and_index():
    def data(workers):
        return user_data(Noisy(), Noisy(), num_classes=12).with_workers(workers)

    torch.manual_seed(0)
    random.seed(0)
    before = random.getstate()
    whole = seen(data(0).train_batches(3, seed=4), epoch=1)
    assert random.getstate() == before
    torch.manual_seed(99)
    assert same(seen(data(2).train_batches(3, seed=4), epoch=1), whole)
    assert same(seen(data(0).train_batches(3, seed=4), epoch=1, start=2), whole[2:])
    other = seen(data(0).train_batches(12, seed=4), epoch=2)[0]
    by_label = {int(y): x for batch in whole for x, y in zip(*batch, strict=True)}
    assert all(not torch.equal(by_label[int(y)], x) for x, y in zip(*other, strict=True))
    assert len({float(x.sum()) for x in by_label.values()}) == 12


@pytest.mark.parametrize("shuffle", [False, True])
def test_random_iterables_follow_from_seed_and_epoch(shuffle):
    data = user_data(DataLoader(Noisy(), batch_size=4, shuffle=shuffle), Noisy(), num_classes=12)
    before = torch.get_rng_state()
    batches = data.train_batches(5, seed=2)
    whole = seen(batches, epoch=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same(seen(batches, epoch=3, start=1), whole[1:])
    assert not same(seen(batches, epoch=4), whole)


X, Y = torch.zeros(3, 4, 4), 1
IMAGE = type("Image", (), {})()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (X, r"train\[0\] is a Tensor, expected a pair \(x, y\); two tensors make one in a TensorDataset"),
        ((X, Y, 0), r"train\[0\] is a tuple of 3, expected a pair"),
        ({"x": X}, r"train\[0\] is a dict of"),
        ((IMAGE, Y), r"train\[0\]: x is a Image, expected a tensor or array: convert it in your Dataset"),
        ((X.long(), Y), r"x is torch\.int64, expected uint8 \(pixels\) or float"),
        ((torch.tensor(1.0), Y), "x is a single number"),
        ((X, 1.0), r"the label is 1\.0 \(float\), expected a whole number"),
        ((X, torch.tensor(1.0)), r"labels are torch\.float32, expected whole numbers"),
        ((X, "cat"), "the label is 'cat'"),
        ((X, 3), r"train\[0\]: label 3, expected 0\.\.2 \(num_classes\)"),
        ((X, -1), "label -1, expected"),
        ((X, torch.zeros(2, 2, dtype=torch.long)), "neither a sample nor a batch"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_samples_of_a_wrong_kind_are_named(pair, message):
    with pytest.raises(ValueError, match=message.replace(r"train\[0\]", r"train(\[0\]|, item 0)")):
        user_data(Pairs(pair), dataset(), num_classes=3)


def test_a_bad_sample_among_good_ones_is_named_when_it_is_met():
    good = (torch.zeros(3, 4, 4), 0)
    for bad, message in (
        ((X, 7), "label 7"),
        ((torch.zeros(3, 5, 4), 0), r"x is torch.float32 \(3, 5, 4\), and the first"),
    ):
        data = user_data(Pairs(good, good, bad), Pairs(good), num_classes=3)
        with pytest.raises(ValueError, match=rf"train\[2\]: .*{message}"):
            list(data.train_batches(3, seed=0))
        data = user_data(Pairs(good, good, bad), Pairs(good), num_classes=3, skip_bad=True)
        with pytest.warns(UserWarning, match=r"left out 1 samples .*train\[2\]"):
            ((_, y),) = data.train_batches(3, seed=0)
        assert len(y) == 2


def test_errors_of_the_datasets_own_are_named_by_index():
    class Failing(Noisy):
        def __getitem__(self, index):
            if index == 5:
                raise KeyError("no such file")
            return super().__getitem__(index)

    data = user_data(Failing(), Noisy(), num_classes=12)
    with pytest.raises(ValueError, match=r"train\[5\]: KeyError: 'no such file'"):
        list(data.train_batches(12, seed=0))


def test_bad_items_of_an_iterable_are_named_by_number():
    with pytest.raises(ValueError, match=r"train, item 2, sample 1: label 7"):
        user_data(
            DataLoader(TensorDataset(torch.zeros(6, 2), torch.tensor([0, 0, 0, 0, 0, 7])), 2), dataset(), num_classes=3
        )
    with pytest.raises(ValueError, match=r"train\[0\]: x \(3, 2\) and y \(2,\) are neither a sample nor a batch"):
        user_data([(torch.zeros(3, 2), torch.zeros(2).long())], dataset(), num_classes=3)


def test_what_is_used_up_after_one_pass_is_refused():
    with pytest.raises(ValueError, match="train is a generator, which is used up after one pass"):
        user_data((pair for pair in dataset()), dataset(), num_classes=3)


def test_what_gives_less_the_second_time_is_noticed():
    class UsedUp:
        def __init__(self):
            self.pairs = iter([(X, 0), (X, 1)])

        def __iter__(self):
            yield from self.pairs

    data = user_data(UsedUp(), [(X, 0)], num_classes=3)
    with pytest.raises(ValueError, match="train gave 0 samples, and 2 when it was read first"):
        list(data.train_batches(2, seed=0))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "train has no samples"),
        (iter([]), "train is a list_iterator, which is used up"),
        (DataLoader(dataset(0), batch_size=2), "train has no samples|train gave no samples"),
        ({"x": 1}, "train is a dict: expected a Dataset"),
        ("digits", "train is a str: expected a Dataset|train.* is a str"),
        (5, "train is a int: expected a Dataset"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_split_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        user_data(source, dataset(), num_classes=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 3, "about": About(class_names=["a"])}, "class_names has 1 names for num_classes=3"),
        ({"num_classes": 3, "mean": [1], "std": [1, 2]}, "one of each per channel"),
        ({"num_classes": 3, "mean": [1], "std": [1]}, "inputs have 3 channels, mean and std are of 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        user_data(dataset(), dataset(), **arguments)


def test_what_is_about_the_set_is_kept_or_refused():
    about = About(name="pets", class_names=["cat", "dog", "eel"])
    data = user_data(dataset(), dataset(), num_classes=3, about=about)
    assert (data.name, data.task, data.class_names) == ("pets", "classification", ("cat", "dog", "eel"))
    with pytest.raises(ValueError, match="task='detection': expected one of classification, segmentation"):
        About(task="detection")


def test_other_shapes_in_the_two_splits_are_refused():
    with pytest.raises(ValueError, match=r"test\[0\]: x is torch.uint8 \(3, 4, 5\), and the first sample"):
        user_data(dataset(), [(torch.zeros(3, 4, 5, dtype=torch.uint8), 0)], num_classes=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_named(value):
    good, bad = (torch.zeros(3, 4, 4), 0), (np.full((3, 4, 4), value), 0)
    message = r"train\[2\]: .*48 of 48 values of x are NaN or infinite"
    data = user_data(Pairs(good, good, bad), Pairs(good), num_classes=3)
    with pytest.raises(ValueError, match=message):
        list(data.train_batches(3, seed=0))
    data = user_data(Pairs(good, good, bad), Pairs(good), num_classes=3, skip_bad=True)
    with pytest.warns(UserWarning, match=r"left out 1 samples .*train\[2\]"):
        assert [len(y) for _, y in data.train_batches(1, seed=0)] == [1, 1]
    with pytest.raises(ValueError, match=r"train, item 1, sample 0: 48 of 48 values"):
        user_data([(x[None], torch.zeros(1).long()) for x in (good[0], torch.as_tensor(bad[0]))], [good], num_classes=3)


@pytest.mark.parametrize("arguments", [{"mean": 0.5}, {"std": [float("nan")] * 3}])
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*: expected"):
        user_data(dataset(), dataset(), num_classes=3, **arguments)


def test_images_with_channels_last_are_refused():
    samples = [(torch.zeros(8, 8, 3, dtype=torch.uint8), 0)] * 4
    with pytest.raises(ValueError, match=r"channels last: expected \(C, H, W\), x.permute\(2, 0, 1\)"):
        user_data(samples, samples, num_classes=2)


class Arrays(Pairs):
    """Grey images with an array of one number for a label, as MedMNIST gives them: image i is filled with i."""

    def __init__(self, shape=(1, 4, 4), n=10):
        super().__init__(*((torch.full(shape, i, dtype=torch.uint8), np.array([i % 3])) for i in range(n)))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (5,)])
def test_labels_that_are_arrays_of_one_number_are_those_of_samples(shape):
    data = user_data(Arrays(shape), Arrays(shape), num_classes=3, std=(1 / 255,) * shape[0])
    assert data.image_shape == shape
    first, second = (seen(data.train_batches(10, seed=0), epoch)[0] for epoch in (0, 1))
    for x, y in (first, second):
        order = x.flatten(1)[:, 0].round().long()
        assert torch.equal(y, order % 3)
        assert order.tolist() not in (sorted(order.tolist()), list(range(10)))
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("size", [1, 4, 9])
def test_loaders_of_them_give_batches(size):
    data = user_data(DataLoader(Arrays(), size), DataLoader(Arrays(), size, shuffle=True), num_classes=3)
    assert (data.image_shape, data.train_batches(2, seed=0).num_samples) == ((1, 4, 4), 10)
    ((_, y),) = data.train_batches(10, seed=0)
    assert y.tolist() == [i % 3 for i in range(10)]


def test_volumes_and_signals_come_where_they_are_said():
    for axes, shape in ((4, (1, 8, 8, 8)), (2, (1, 20))):
        with pytest.raises(ValueError, match="a batch of one, or one sample with an array for a label"):
            user_data(Arrays(shape), Arrays(shape), num_classes=3)
        data = user_data(Arrays(shape), Arrays(shape), num_classes=3, about=About(axes=axes))
        assert data.image_shape == shape
        assert next(iter(data.train_batches(5, seed=0)))[0].shape == (5, *shape)


def test_images_without_their_channel_axis_are_refused_in_every_form():
    source = TensorDataset(torch.rand(8, 6, 6), torch.arange(8) % 3)
    for form in (source, DataLoader(source, 4), DataLoader(source, 1), list(DataLoader(source, 2))):
        with pytest.raises(ValueError, match=r"images \(C, H, W\), a grey one as x\[None\]"):
            user_data(form, form, num_classes=3)


class Stream(IterableDataset):
    """The same item without end; states a length where one is given."""

    def __init__(self, item, most=None):
        self.item, self.most = item, most

    def __iter__(self):
        return itertools.repeat(self.item) if self.most is None else itertools.repeat(self.item, self.most)


class Stated(Stream):
    def __len__(self):
        return 10


BATCH = (torch.zeros(6, 3, 4, 4), torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("item", [(X, Y), BATCH], ids=["samples", "batches"])
@pytest.mark.parametrize("kind", [Stream, Stated])
def test_an_iterable_that_never_ends_is_refused(item, kind, monkeypatch):
    monkeypatch.setattr(user, "MOST_SAMPLES", 100)
    with pytest.raises(
        ValueError, match=r"train: the iterable .* seems endless, after .*: give it an end, with itertools"
    ):
        user_data(kind(item), dataset(), num_classes=3)
    with pytest.raises(ValueError, match="train is a cycle, which is used up after one pass"):
        user_data(itertools.cycle([item]), dataset(), num_classes=3)
    assert len(user_data(Stream(item, 16), Stream(item, 16), num_classes=3).train) == 16 * (6 if item is BATCH else 1)


def test_images_are_not_moved_without_their_masks():
    source = TensorDataset(torch.rand(5, 3, 4, 6), torch.zeros(5, 4, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match="segmentation does not go with Augment: expected JointAugment"):
        user_data(source, source, num_classes=4, about=About(task="segmentation"), augment=Augment(flip=True))
