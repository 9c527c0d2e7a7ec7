import numpy as np
import pytest
import torch

from flatbit.data import load
from flatbit.data.sets.spirals import COPIES, core, make_spirals, region


def by_hand(x, y):
    """Spec 5.5 read aloud, for one point."""
    r = 0.1
    rho = (x**2 + y**2) ** 0.5 if y > 0 else ((x - r) ** 2 + y**2) ** 0.5
    k = round(rho / r)
    label = 0 if (k % 2 == 1 if y > 0 else k % 2 == 0) else 1
    return label, 1 <= k <= 10


def test_the_core_lies_on_the_arcs_of_its_class():
    points, labels = core()
    assert points.shape == (2000, 2)
    assert np.bincount(labels).tolist() == [1000, 1000]
    assert (region(points)[0] == labels).all()


def test_arcs_join_into_spirals():
    points, _ = core()
    arcs = points.reshape(2, 5, 2, 100, 2)
    for i in range(5):
        upper, lower = arcs[0, i]
        np.testing.assert_allclose(upper[-1], [-(2 * i + 1) * 0.1, 0], atol=1e-12)
        np.testing.assert_allclose(upper[-1], lower[0], atol=1e-12)
        if i < 4:
            np.testing.assert_allclose(lower[-1], arcs[0, i + 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(arcs[1, 0, 1, 0], [0.0, 0.0], atol=1e-12)


def test_region_is_the_specs():
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (2000, 2))
    labels, valid = region(points)
    assert [by_hand(*point) for point in points.tolist()] == list(zip(labels.tolist(), valid.tolist(), strict=True))


def test_training_points_are_the_core_and_noisy_copies():
    data = make_spirals()
    points, labels = core()
    assert data.train.labels.bincount().tolist() == [10000, 10000]
    np.testing.assert_allclose(data.train.images[:2000].numpy(), points.astype(np.float32))
    noise = data.train.images.numpy().reshape(1 + COPIES, 2000, 2)[1:] - points
    assert noise.std() == pytest.approx(0.1 / 3, rel=0.02)
    assert abs(noise.mean()) < 0.001
    assert (data.train.labels.reshape(-1, 2000) == torch.from_numpy(labels)).all()


def test_noise_leaves_the_share_of_labels_that_the_spec_measured():
    data = make_spirals()
    labels, _ = region(data.train.images.double().numpy())
    assert (labels == data.train.labels.numpy()).mean() == pytest.approx(0.881, abs=0.012)


def test_the_test_set_is_the_valid_part_of_the_grid():
    data = make_spirals()
    points = data.test.images.double().numpy()
    labels, valid = region(points)
    assert valid.mean() > 0.999  # float32 moves a few over a border
    assert (labels == data.test.labels.numpy()).mean() > 0.999
    steps = points / 0.006
    assert np.abs(steps - np.rint(steps)).max() < 1e-4
    assert len(np.unique(points, axis=0)) == len(points) == 95975


def test_batches_hold_the_coordinates_times_two():
    data = make_spirals()
    x, y = next(iter(data.test_batches(100)))
    assert torch.equal(x, 2 * data.test.images[:100])
    assert torch.equal(y, data.test.labels[:100])
    x, _ = next(iter(data.train_batches(500, seed=0)))
    assert x.shape == (500, 2)
    assert x.dtype == torch.float32


def test_the_seed_makes_the_noise():
    assert torch.equal(make_spirals(1).train.images, make_spirals(1).train.images)
    assert not torch.equal(make_spirals(1).train.images, make_spirals(2).train.images)
    assert torch.equal(make_spirals(1).test.images, make_spirals(2).test.images)


def test_facts():
    data = load("spirals")
    assert data.image_shape == (2,)
    assert (data.name, data.num_classes, data.task) == ("spirals", 2, "classification")
