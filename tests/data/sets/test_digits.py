import torch
from sklearn import datasets

from flatbit.data.sets.digits import load_digits


def test_the_split_is_stratified_and_whole():
    data = load_digits()
    train, test = data.train.labels.bincount(), data.test.labels.bincount()
    assert (len(data.train.labels), len(data.test.labels)) == (1347, 450)
    assert train.sum() + test.sum() == 1797
    assert ((test / (train + test) - 450 / 1797).abs() < 0.005).all()


def test_no_image_is_in_both_splits_and_none_is_lost():
    data = load_digits()
    pixels = torch.from_numpy(datasets.load_digits().data)
    both = torch.cat([data.train.images, data.test.images]).flatten(1)
    levels = (both.double() * 16 / 255).round()
    assert sorted(map(tuple, levels.tolist())) == sorted(map(tuple, pixels.tolist()))


def test_pixels_keep_their_labels():
    data = load_digits()
    source = datasets.load_digits()
    known = {tuple(row): label for row, label in zip(source.data.tolist(), source.target.tolist(), strict=True)}
    for image, label in zip(data.test.images, data.test.labels, strict=True):
        assert known[tuple((image.flatten().double() * 16 / 255).round().tolist())] == label


def test_seventeen_grey_levels_fill_the_byte():
    values = load_digits().train.images.unique()
    assert len(values) == 17
    assert values[[0, -1]].tolist() == [0, 255]


def test_mean_and_std_are_those_of_the_training_images():
    data = load_digits()
    x, _ = next(iter(data.train_batches(1347, seed=0, augment=False)))
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_loading_twice_gives_the_same():
    first, second = load_digits(), load_digits()
    torch.manual_seed(5)
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.train.labels, second.train.labels)


def test_the_split_is_the_one_that_published_numbers_were_got_on():
    # From this function, with scikit-learn 1.9: a change of the split is a change of every number.
    assert load_digits().test.labels[:12].tolist() == [2, 0, 4, 9, 4, 1, 2, 4, 6, 7, 9, 1]


def test_facts():
    data = load_digits()
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == len(data.class_names) == 10
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert data.augment.pad == 1
