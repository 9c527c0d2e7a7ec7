import numpy as np
import pytest
import torch

import flatbit as fb
from flatbit.analysis.weights import weight_histograms


def quantized(method, bits=3, **options):
    model = fb.models.build("preresnet8", first_width=4)
    fb.quantize_(model, fb.policy(method, weights=bits, activations=32, **options))
    fb.calibrate_(model, [torch.randn(4, 3, 8, 8)])
    return model


def by_layer(model, **settings):
    return {histogram.layer: histogram for histogram in weight_histograms(model, **settings).layers}


@pytest.mark.parametrize("method", ["sqwa-all", "saq", "uniq", "faq", "lsq", "lsq_plus", "dorefa", "dq"])
def test_every_weight_is_counted_once(method):
    for histogram in weight_histograms(quantized(method)).layers:
        weight = quantized(method).get_submodule(histogram.layer).weight
        assert histogram.counts.sum() == weight.numel()
        assert histogram.occupancy.sum() == pytest.approx(1)
        assert len(histogram.occupancy) == len(histogram.levels)
        assert (np.diff(histogram.levels) > 0).all()
        assert histogram.num_levels == len(histogram.levels)
        assert histogram.levels_used == np.count_nonzero(histogram.occupancy)


def test_histogram_and_occupancy_of_uniq_by_hand():
    model = quantized("uniq", bits=2)
    conv = model.layers[1][0].conv2
    histogram = by_layer(model, bins=10)["layers.1.0.conv2"]
    step = fb.grids(model)["layers.1.0.conv2"].weight.step.item()
    w = conv.weight.detach().numpy().ravel()
    np.testing.assert_allclose(histogram.levels, step * np.array([-1.5, -0.5, 0.5, 1.5]), rtol=1e-6)
    cells = np.digitize(w, [-step, 0, step])  # the cells of four mid-rise levels
    np.testing.assert_allclose(histogram.occupancy, np.bincount(cells, minlength=4) / w.size)
    counts, edges = np.histogram(w, bins=10)
    np.testing.assert_array_equal(histogram.counts, counts)
    np.testing.assert_allclose(histogram.edges, edges)


@pytest.mark.parametrize("method", ["saq", "dorefa", "uniq"])
def test_levels_lie_where_the_quantized_values_do(method):
    model = quantized(method)
    conv = model.layers[1][0].conv2
    used = conv.quantized_weight().detach().unique().numpy()
    histogram = by_layer(model)["layers.1.0.conv2"]
    np.testing.assert_allclose(histogram.levels[histogram.occupancy > 0], used, rtol=1e-5)


def test_saq_shows_what_it_rounds_the_normalized_weight():
    model = quantized("saq")
    w = model.layers[1][0].conv2.weight.detach()
    histogram = by_layer(model)["layers.1.0.conv2"]
    expected = ((w - w.mean()) / w.std()).numpy()
    np.testing.assert_allclose(histogram.edges[[0, -1]], [expected.min(), expected.max()], rtol=1e-5)


def test_one_step_per_channel_is_shown_in_units_of_the_step():
    model = quantized("uniq", bits=2, granularity="channel")
    histogram = by_layer(model)["layers.1.0.conv2"]
    assert histogram.levels.tolist() == [-1.5, -0.5, 0.5, 1.5]
    conv = model.layers[1][0].conv2
    units = (conv.weight / fb.grids(model)["layers.1.0.conv2"].weight.step).detach()
    np.testing.assert_allclose(histogram.edges[[0, -1]], [units.min(), units.max()], rtol=1e-5)
    cells = np.digitize(units.numpy().ravel(), [-1, 0, 1])
    np.testing.assert_allclose(histogram.occupancy, np.bincount(cells, minlength=4) / cells.size)


def test_layers_come_in_order_and_only_those_with_quantized_weights():
    names = [h.layer for h in weight_histograms(quantized("sqwa")).layers]
    model = fb.models.build("preresnet8")
    edges = {"conv1", "fc"}  # float in SQWA
    convolutions = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert names == [name for name in convolutions if name not in edges]
    assert set(by_layer(quantized("faq"))) == set(convolutions)  # and no batch norm in fixed point


def test_a_float_model_has_none():
    assert weight_histograms(fb.models.build("preresnet8")).layers == ()


def test_the_model_is_as_before():
    model = quantized("uniq")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    weight_histograms(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
