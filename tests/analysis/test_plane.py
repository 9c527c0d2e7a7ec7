import copy
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flatbit as fb
from flatbit.analysis import plane
from flatbit.analysis.partial import FILE
from flatbit.analysis.plane import _shares, loss_plane
from flatbit.data.memory import Images, MemoryData

from .plane_cases import Bowl, captures, net, quadratic

W = [[0.0, 0, 0, 0], [2.0, 0, 0, 0], [0.5, 1.5, 0, -1]]


def ones():
    """Images that all have label 1."""
    split = Images(images=torch.zeros(6, 1, 2, 2, dtype=torch.uint8), labels=torch.ones(6, dtype=torch.long))
    return MemoryData(name="ones", num_classes=2, train=split, test=split, mean=(0.0,), std=(1.0,))


def softplus(q):
    return math.log1p(math.exp(q))


def test_of_a_quadratic_it_is_that_quadratic():
    result = loss_plane(dict(zip("abc", map(Bowl, W), strict=True)), ones(), weights="float", points=5)
    u, d = np.array([1.0, 0, 0, 0]), np.array(W[2])
    v = d - (d @ u) * u
    across = np.linalg.norm(v)
    np.testing.assert_allclose(result.corners, [[0, 0], [2, 0], [0.5, across]])
    expected = [
        [softplus(quadratic(torch.from_numpy(x * u + y * v / across)).item()) for x in result.x] for y in result.y
    ]
    np.testing.assert_allclose(result.surface["train_loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(result.surface["test_loss"], expected, rtol=1e-12)
    at_models = [softplus(quadratic(torch.tensor(w, dtype=torch.float64)).item()) for w in W]
    np.testing.assert_allclose(result.at_models["test_loss"], at_models, rtol=1e-12)
    assert (result.names, result.weights, result.refitted) == (("a", "b", "c"), "float", False)
    assert (result.num_train, result.num_test) == (6, 6)


def test_the_grid_is_the_box_of_the_models_and_a_quarter_of_its_larger_side_around():
    result = loss_plane(dict(zip("abc", map(Bowl, W), strict=True)), ones(), weights="float", points=3)
    margin = 0.25 * 2
    np.testing.assert_allclose(result.x, [-margin, 1, 2 + margin])
    np.testing.assert_allclose(result.y, np.linspace(-margin, result.corners[2, 1] + margin, 3))


def test_accuracy_is_where_the_label_wins():
    """Label 1 wins where q < 0, which a bowl never is; the other way round it always does."""
    result = loss_plane(dict(zip("abc", map(Bowl, W), strict=True)), ones(), weights="float", points=2)
    assert not result.surface["train_accuracy"].any()
    assert result.surface["train_accuracy"].shape == (2, 2)


@given(st.floats(0.1, 9), st.floats(-9, 9), st.floats(0.1, 9), st.floats(-9, 9), st.floats(-9, 9))
def test_shares_sum_to_one_and_their_mean_is_the_point(d, a, h, x, y):
    corners = np.array([[0, 0], [d, 0], [a, h]])
    shares = _shares(corners, x, y)
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(shares @ corners, [x, y], atol=1e-6)


@pytest.fixture(scope="module")
def retrained():
    """Three captures of one retraining, and what they score with statistics of the training images."""
    return dict(zip(("first", "second", "third"), captures(net()), strict=True))


@pytest.mark.parametrize("weights", ["quantized", "float"])
def test_three_captures_are_reproduced_exactly(retrained, blobs, weights):
    result = loss_plane(retrained, blobs, weights=weights, points=2)
    for index, model in enumerate(retrained.values()):
        own = copy.deepcopy(model)
        fb.train.reestimate_batchnorm_(own, blobs.train_batches(48, seed=0, augment=False))
        for split, batches in (
            ("train", blobs.train_batches(48, seed=0, augment=False)),
            ("test", blobs.test_batches()),
        ):
            metrics = fb.evaluate(own, batches)
            assert result.at_models[f"{split}_loss"][index] == metrics.loss
            assert result.at_models[f"{split}_accuracy"][index] == metrics.top1
    assert not result.refitted


def test_the_grid_passes_through_the_models(retrained, blobs, monkeypatch):
    """With the box itself as the grid, its lower corners are the first two where the third is between them."""
    monkeypatch.setattr("flatbit.analysis.plane.MARGIN", 0.0)
    result = loss_plane(retrained, blobs, points=2)
    assert 0 < result.corners[2, 0] < result.corners[1, 0]
    assert result.surface["train_loss"][0].tolist() == result.at_models["train_loss"][:2].tolist()


def test_statistics_are_estimated_at_every_point(retrained, blobs):
    wrong = {name: copy.deepcopy(model) for name, model in retrained.items()}
    for model in wrong.values():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean += 100
    one, other = (loss_plane(models, blobs, points=2) for models in (retrained, wrong))
    for name in one.surface:
        np.testing.assert_array_equal(one.surface[name], other.surface[name])


def test_it_goes_on_with_what_is_kept_and_refuses_what_is_stale(retrained, blobs, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    def score(network, batches, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 5:
            raise Stop
        return real(network, batches)

    real = plane.score
    with monkeypatch.context() as patched:
        patched.setattr("flatbit.analysis.plane.score", score)
        with pytest.raises(Stop):
            loss_plane(retrained, blobs, points=2, keep=tmp_path)
    assert (tmp_path / FILE).is_file()
    moved = dict(zip(retrained, captures(net(seed=1)), strict=True))
    for models, settings, says in (
        (moved, {"points": 2}, "models was"),
        (retrained, {"points": 3}, "points was"),
        (retrained, {"points": 2, "weights": "float"}, "weights was quantized, is float"),
        (retrained, {"points": 2, "num_images": 10}, "images was"),
    ):
        with pytest.raises(ValueError, match=f"part of another result: {says}"):
            loss_plane(models, blobs, keep=tmp_path, **settings)
    whole, again = (loss_plane(retrained, blobs, points=2, **kept) for kept in ({}, {"keep": tmp_path}))
    for name in whole.surface:
        np.testing.assert_array_equal(whole.surface[name], again.surface[name])


@pytest.mark.parametrize(
    ("models", "settings", "says"),
    [
        (W[:2], {}, r"plane: got 2 models \(a, b\): expected three, which span it"),
        ([W[0], W[0], W[2]], {}, "the weights are the same in a and b: expected three models that span a plane"),
        ([W[0], W[1], [1.0, 0, 0, 0]], {}, "the weights of a, b and c lie on a line"),
        (W, {"points": 1}, "points=1: expected 2 or more along each side"),
        (W, {"num_images": 0}, "num_images=0: expected 1 or more"),
        (W, {"weights": "quantized"}, "a has no quantized weights, expected some"),
    ],
)
def test_what_spans_no_plane_is_refused(models, settings, says):
    with pytest.raises(ValueError, match=says):
        loss_plane(dict(zip("abc", map(Bowl, models), strict=False)), ones(), **{"weights": "float"} | settings)


def test_the_defaults_are_those_of_the_specification():
    usual = {name: p.default for name, p in inspect.signature(loss_plane).parameters.items()}
    assert (usual["weights"], usual["points"], usual["num_images"]) == ("quantized", 21, 2000)
