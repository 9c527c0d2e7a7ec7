import copy
import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.analysis import landscape as module
from flatbit.analysis.landscape import Surroundings, loss_landscape, normalized
from flatbit.analysis.partial import FILE
from flatbit.data.batches import generator
from flatbit.data.memory import Images, MemoryData
from flatbit.quant.table import quantized_layers, quantizers_of

from .plane_cases import net


class Bowl(nn.Module):
    """Logits (q, 0) with ``q = ||w||^2/2``, whatever the input; the loss at label 1 is softplus(q)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 2, 0], [0, 0.5, -1]], dtype=torch.float64))
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, x):
        q = self.w.square().sum().expand(len(x)) / 2
        return torch.stack([q, torch.zeros_like(q)], 1)


def ones():
    split = Images(images=torch.zeros(6, 1, 2, 2, dtype=torch.uint8), labels=torch.ones(6, dtype=torch.long))
    return MemoryData(name="ones", num_classes=2, train=split, test=split, mean=(0.0,), std=(1.0,))


def test_of_a_quadratic_it_is_that_quadratic():
    model = Bowl()
    d1, d2 = (parts[0] for parts in Surroundings(model, "bowl", 5).directions)
    result = loss_landscape({"bowl": model}, ones(), points=5, span=0.5, seed=5)
    np.testing.assert_allclose(result.steps, [-0.5, -0.25, 0, 0.25, 0.5])
    expected = [
        [math.log1p(math.exp((model.w + a * d1 + b * d2).square().sum().item() / 2)) for a in result.steps]
        for b in result.steps
    ]
    (surface,) = result.models
    np.testing.assert_allclose(surface.loss, expected, rtol=1e-12)
    assert surface.at_the_weights == pytest.approx(math.log1p(math.exp(model.w.square().sum().item() / 2)))
    assert (surface.name, result.split, result.num_images) == ("bowl", "train", 6)


def test_directions_are_gaussian_orthogonal_over_all_weights_then_of_the_size_of_filters():
    """Written anew, in vectors, for two layers and a bias that does not move."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    weights = [model[0].weight.detach(), model[3].weight.detach()]
    found = Surroundings(model, "net", 7).directions
    random = generator(7)
    raw = [torch.cat([torch.randn(w.shape, generator=random).flatten() for w in weights]) for _ in range(2)]
    raw[1] = raw[1] - (raw[1] @ raw[0]) / (raw[0] @ raw[0]) * raw[0]
    assert abs(raw[0] @ raw[1]) < 1e-3
    for parts, vector in zip(found, raw, strict=True):
        assert len(parts) == 2
        for part, weight, flat in zip(parts, weights, vector.split([w.numel() for w in weights]), strict=True):
            rows = flat.reshape(len(weight), -1)
            size = weight.reshape(len(weight), -1).norm(dim=1) / rows.norm(dim=1)
            torch.testing.assert_close(part, (rows * size[:, None]).reshape(weight.shape))


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 3, 2, 2)), (1, (3, 4, 2, 2)), (0, (4, 5))])
def test_every_filter_has_the_norm_of_the_weights(axis, shape):
    weight, direction = torch.randn(shape), torch.randn(shape)
    weight.select(axis, 1).zero_()
    found = normalized(direction, weight, axis)
    for index in range(4):
        one, other = (t.select(axis, index) for t in (found, weight))
        torch.testing.assert_close(one.norm(), other.norm())
    cosine = torch.cosine_similarity(found.select(axis, 0).flatten(), direction.select(axis, 0).flatten(), 0)
    assert cosine.item() == pytest.approx(1)


def test_filters_of_a_transposed_convolution_lie_along_its_second_axis():
    model = nn.ConvTranspose2d(3, 5, 2)
    (direction,) = Surroundings(model, "net", 0).directions[0]
    torch.testing.assert_close(*(t.transpose(0, 1).flatten(1).norm(dim=1) for t in (direction, model.weight.detach())))


def test_quantized_weights_move_after_rounding_and_are_not_rounded_again():
    model = net("uniq", activations=2)
    around = Surroundings(model, "net", 0)
    around.move_(0.01, -0.02)
    layers = dict(quantized_layers(model))
    index = {id(weight): i for i, weight in enumerate(around._weights)}
    for name, layer in quantized_layers(around.network):
        if layer.weight_quantizer is None:
            continue
        d1, d2 = (parts[index[id(layer.weight)]] for parts in around.directions)
        own = layers[name]
        torch.testing.assert_close(layer.quantized_weight(), own.quantized_weight().detach() + 0.01 * d1 - 0.02 * d2)
        norms = own.quantized_weight().detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(d1.flatten(1).norm(dim=1), norms)
    assert all(quantizer.perturbation is None for _, quantizer in quantizers_of(model))


def test_biases_norms_and_statistics_stay_and_coming_back_is_exact():
    model = net()
    around = Surroundings(model, "net", 0)
    before = copy.deepcopy(around.network.state_dict())
    around.move_(0.7, 0.3)
    after = around.network.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all(after[name].ndim > 1 for name in moved)
    around.move_(0.0, 0.0)
    x = torch.randn(4, 1, 4, 4)
    assert torch.equal(around.network(x), model.eval()(x))


def test_the_middle_is_the_model_in_eval_mode(blobs):
    model = net().train()
    result = loss_landscape({"net": model}, blobs, points=3, split="test")
    metrics = fb.evaluate(model, blobs.test_batches())
    (surface,) = result.models
    assert surface.at_the_weights == metrics.loss
    assert surface.accuracy[1, 1] == metrics.top1
    assert (result.split, result.num_images) == ("test", 20)


def test_models_have_the_same_directions_and_are_measured_one_by_one(blobs):
    models = {"a": net(), "b": net(seed=1)}
    both = loss_landscape(models, blobs, points=3)
    assert [each.name for each in both.models] == ["a", "b"]
    for (name, model), surface in zip(models.items(), both.models, strict=True):
        (alone,) = loss_landscape({name: model}, blobs, points=3).models
        np.testing.assert_array_equal(alone.loss, surface.loss)
    one, other = (Surroundings(model, "", 0).directions[0][0].flatten(1) for model in models.values())
    torch.testing.assert_close(torch.cosine_similarity(one, other), torch.ones(len(one)))
    (elsewhere,) = loss_landscape({"a": models["a"]}, blobs, points=3, seed=1).models
    assert elsewhere.loss[0, 0] != both.models[0].loss[0, 0]


def test_it_goes_on_with_what_is_kept_and_refuses_what_is_stale(blobs, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    models, real, calls = {"a": net(), "b": net(seed=1)}, module.score, []

    def score(network, batches):
        calls.append(network)
        if len(calls) == 12:
            raise Stop
        return real(network, batches)

    monkeypatch.setattr("flatbit.analysis.landscape.score", score)
    with pytest.raises(Stop):
        loss_landscape(models, blobs, points=3, keep=tmp_path)
    for settings, says in (
        ({"seed": 1}, "seed was 0, is 1"),
        ({"span": 0.5}, "span was 1.0, is 0.5"),
        ({"points": 5}, "points was 18, is 50"),
        ({"split": "test"}, "images was"),
    ):
        with pytest.raises(ValueError, match=f"part of another result: {says}"):
            loss_landscape(models, blobs, **{"points": 3, "keep": tmp_path} | settings)
    with pytest.raises(ValueError, match="models was"):
        loss_landscape({"a": models["a"], "b": models["a"]}, blobs, points=3, keep=tmp_path)
    again = loss_landscape(models, blobs, points=3, keep=tmp_path)
    assert len(calls) == 12 + 18 - 11
    assert not (tmp_path / FILE).exists()
    for one, other in zip(again.models, loss_landscape(models, blobs, points=3).models, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"points": 4}, "points=4, span=1.0: expected an odd number of points"),
        ({"points": 1}, "points=1, span=1.0: expected an odd number of points, 3 or more"),
        ({"span": 0.0}, "span=0.0: expected an odd number of points, 3 or more, and a positive span"),
        ({"num_images": 0}, "num_images=0: expected 1 or more"),
    ],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(ValueError, match=says):
        loss_landscape({"bowl": Bowl()}, ones(), **settings)


def test_no_models():
    with pytest.raises(ValueError, match="landscape: got no models: expected one or more"):
        loss_landscape({}, ones())


def test_a_model_without_matrices_has_no_directions():
    with pytest.raises(ValueError, match="scales has no weight of two axes or more: there is no direction, expected"):
        Surroundings(nn.BatchNorm1d(3), "scales", 0)


def test_the_defaults_are_those_of_the_specification():
    usual = {name: p.default for name, p in inspect.signature(loss_landscape).parameters.items()}
    assert (usual["points"], usual["span"], usual["split"], usual["num_images"]) == (21, 1.0, "train", 2000)
